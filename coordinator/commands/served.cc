// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/served.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "compose/assemble/composition.h"
#include "coordinator/commands/compose_parts.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

constexpr char kWhere[] = "MODEL";

absl::StatusOr<Served> OpenDirectory(const ServedOptions& options) {
  if (!options.router.empty()) {
    return proto::Invalid("--router", options.router,
                          "none for a model directory, which has its own",
                          "leave it out");
  }
  Served served;
  MOTET_ASSIGN_OR_RETURN(served.model,
                         assemble::LoadDirectory(options.model));
  if (!served.model->experts.empty()) served.router = "topk";
  return served;
}

absl::StatusOr<Served> OpenComposition(const ServedOptions& options,
                                       const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.model));
  Served served;
  if (!options.offline) {
    MOTET_ASSIGN_OR_RETURN(served.revoked, Revoked(*session.client, lock));
  }
  assemble::LoadOptions load;
  load.router = options.router;
  load.set_bytes = options.merge_memory_mib << 20;
  MOTET_ASSIGN_OR_RETURN(served.model, LoadNamed(session, lock, load));
  served.router =
      options.router.empty() ? lock.router().kind() : options.router;
  return served;
}

}  // namespace

absl::StatusOr<std::set<std::string>> Revoked(
    registry::Client& client, const v1::CompositionLock& lock) {
  std::set<std::string> revoked;
  const auto is_revoked =
      [&](const std::string& id,
          const std::string& manifest_sha256) -> absl::StatusOr<bool> {
    const auto record = client.Inspect(manifest_sha256);
    if (record.ok()) return record->revoked();
    return proto::Error(
        absl::StatusCode::kUnavailable, kWhere,
        absl::StrCat("no word from the registry on ", id, " (",
                     std::string(record.status().message()), ")"),
        "to know that no expert is revoked",
        "start the registry, or use --offline to go by what was known");
  };
  for (const v1::LockedExpert& expert : lock.experts()) {
    MOTET_ASSIGN_OR_RETURN(
        bool out, is_revoked(expert.id(), expert.manifest_sha256()));
    for (const v1::LockedPilots& pilots : lock.retriever().pilots()) {
      if (pilots.of() != expert.id()) continue;
      MOTET_ASSIGN_OR_RETURN(const bool of_it,
                             is_revoked(pilots.id(), pilots.manifest_sha256()));
      out = out || of_it;
    }
    if (out) revoked.insert(expert.manifest_sha256());
  }
  return revoked;
}

void AddServedOptions(CLI::App& command, ServedOptions& options) {
  command
      .add_option("model", options.model,
                  "A Hugging Face model directory, or a composition's name")
      ->required();
  command
      .add_option("--router", options.router,
                  "anchored or topk, instead of the lock's")
      ->check(CLI::IsMember({"anchored", "topk"}));
  command
      .add_option("--merge-memory", options.merge_memory_mib,
                  "MiB for the weights of a merge's expert sets, which are "
                  "made when a query first asks for one")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_flag("--offline", options.offline,
                   "Start without asking the registry about revocations");
}

void AddStateMemoryOption(CLI::App& command, EngineOptions& options) {
  command
      .add_option_function<int64_t>(
          "--state-memory",
          [&options](int64_t mib) { options.state_bytes = mib << 20; },
          "MiB that a request may carry from token to token: its KV cache, "
          "or as many as models of an ensemble answer; 8192 if not given")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
}

void AddExpertOptions(CLI::App& command, ServedOptions& options) {
  command
      .add_option("--include", options.include,
                  "Only this expert (id, owner, domain; an imported "
                  "mixture's: its index) beside what is always there; once "
                  "for each")
      ->allow_extra_args(false);
  command
      .add_option("--exclude", options.exclude,
                  "Without this expert; once for each")
      ->allow_extra_args(false);
  command
      .add_option("--active", options.active,
                  "Experts that work on a token, within what the model allows")
      ->check(CLI::Range(1, math::kMaxExperts));
  command.add_option("--purpose", options.purpose,
                     "What the answer is for; licences may ask");
}

v1::ExpertSelection SelectionOf(const ServedOptions& options) {
  v1::ExpertSelection selection;
  for (const auto& name : options.include) selection.add_include(name);
  for (const auto& name : options.exclude) selection.add_exclude(name);
  selection.set_active(options.active);
  return selection;
}

absl::StatusOr<Served> OpenServed(const ServedOptions& options,
                                  const Context& context) {
  absl::StatusOr<Served> served;
  if (proto::Exists(options.model + "/config.json")) {
    served = OpenDirectory(options);
  } else if (absl::StrContains(options.model, '/') ||
             !proto::Exists(context.federation + "/motet.toml")) {
    served = proto::Error(
        absl::StatusCode::kNotFound, kWhere,
        absl::StrCat("\"", options.model, "\", ",
                     proto::Exists(options.model)
                         ? "which has no config.json"
                         : "which is no directory",
                     ", and no federation in \"", context.federation, "\""),
        "a model directory with config.json, or a composition's name with "
        "--federation",
        "check the path");
  } else {
    served = OpenComposition(options, context);
  }
  if (served.ok() && !options.name.empty()) {
    served->model->name = options.name;
  }
  return served;
}

absl::StatusOr<Admission> Admit(const assemble::Served& model,
                                const std::set<std::string>& revoked,
                                const ServedOptions& options,
                                const std::string& command) {
  const PolicyGate gate(model, revoked);
  MOTET_ASSIGN_OR_RETURN(const Admission admission,
                         gate.Admit(SelectionOf(options), options.purpose, "",
                                    absl::Now()));
  for (const Withheld& w : admission.withheld()) {
    absl::FPrintF(stderr, "motet %s: without %s: %s\n", command, w.id,
                  w.reason);
  }
  return admission;
}

absl::StatusOr<Admission> AdmitServed(const Served& served,
                                      const ServedOptions& options,
                                      const std::string& command) {
  return Admit(*served.model, served.revoked, options, command);
}

}  // namespace motet::coordinator
