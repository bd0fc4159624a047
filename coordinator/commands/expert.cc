// SPDX-License-Identifier: Apache-2.0
// motet expert list|show|fetch|verify|revoke|log: what the registry holds.
// `import` is in expert_import.cc.
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/package/package_folder.h"
#include "coordinator/cli.h"
#include "coordinator/commands/expert_import.h"
#include "coordinator/federation.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "registry/client.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string prefix;
  std::string id;
  std::string folder;
  std::string authority;
  std::string reason;
  uint64_t from = 0;
};

struct Session {
  Federation federation;
  std::unique_ptr<registry::Client> client;
};

absl::StatusOr<Session> Connect(const Context& context) {
  Session session;
  MOTET_ASSIGN_OR_RETURN(session.federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(
      session.client,
      registry::Client::Make(session.federation.registry_address,
                             session.federation.tls));
  return session;
}

uint64_t TotalBytes(const v1::PackageRecord& record) {
  uint64_t bytes = 0;
  for (const auto& file : record.files()) bytes += file.size_bytes();
  return bytes;
}

absl::Status List(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Session session, Connect(context));
  MOTET_ASSIGN_OR_RETURN(std::vector<v1::PackageRecord> records,
                         session.client->List(options.prefix));
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<Cell>> rows;
  for (const v1::PackageRecord& record : records) {
    const std::string sha256 = proto::Hex(record.manifest_sha256());
    list.push_back({{"id", record.id()},
                    {"manifest_sha256", sha256},
                    {"bytes", TotalBytes(record)},
                    {"published_at", record.published_at()},
                    {"publisher", record.publisher()},
                    {"log_index", record.log_index()},
                    {"revoked", record.revoked()}});
    rows.push_back(
        {{record.id()},
         {absl::StrFormat("%.1f MiB", TotalBytes(record) / 1048576.0)},
         {record.published_at()},
         {absl::StrCat(record.log_index())},
         {record.revoked() ? "revoked" : "live"},
         {sha256.substr(0, 12)}});
  }
  if (context.json) {
    absl::PrintF("%s\n", JsonText(list));
  } else {
    absl::PrintF("%s", AlignedTable({"package", "size", "published", "log",
                                     "state", "digest"},
                                    rows));
  }
  return absl::OkStatus();
}

std::string TermsText(const v1::LicenceTerms& terms) {
  std::vector<std::string> parts;
  if (!terms.spdx().empty()) parts.push_back(terms.spdx());
  const auto list = [&](const char* what, const auto& values) {
    if (!values.empty()) {
      parts.push_back(absl::StrCat(what, " ", absl::StrJoin(values, ", ")));
    }
  };
  list("not for purpose", terms.forbidden_purposes());
  list("only for purpose", terms.allowed_purposes());
  list("not for tenant", terms.forbidden_tenants());
  list("only for tenant", terms.allowed_tenants());
  if (!terms.not_before().empty()) {
    parts.push_back(absl::StrCat("from ", terms.not_before()));
  }
  if (!terms.not_after().empty()) {
    parts.push_back(absl::StrCat("until ", terms.not_after()));
  }
  return parts.empty() ? "no terms" : absl::StrJoin(parts, "; ");
}

absl::Status Show(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Session session, Connect(context));
  MOTET_ASSIGN_OR_RETURN(v1::PackageRecord record,
                         session.client->Inspect(options.id));
  MOTET_ASSIGN_OR_RETURN(
      std::string folder,
      LocalPackage(session.federation, *session.client,
                   proto::Hex(record.manifest_sha256())));
  MOTET_ASSIGN_OR_RETURN(
      std::string manifest_text,
      proto::ReadFile(folder + "/manifest.json", proto::kMaxManifestBytes));
  if (context.json) {
    absl::PrintF("%s\n", manifest_text);
    return absl::OkStatus();
  }
  MOTET_ASSIGN_OR_RETURN(
      package::OpenedPackage opened,
      package::OpenPackage(folder, session.federation.authority_pem));
  const v1::ExpertManifest& m = opened.manifest;
  absl::PrintF("%s  %s\n", m.id(), m.title());
  absl::PrintF("  digest     %s\n", proto::Hex(record.manifest_sha256()));
  absl::PrintF("  kind       %s, %s block, L %d, C %d, F %d\n", m.kind(),
               m.model().block(), m.model().layers(), m.model().width(),
               m.model().ffn_width());
  if (m.has_base()) {
    absl::PrintF("  base       %s (%s)\n", m.base().id(),
                 m.base().manifest_sha256().substr(0, 12));
  }
  absl::PrintF("  domain     %s, %d documents, %d tokens\n",
               m.domain().domain(), m.domain().documents(),
               m.domain().tokens());
  absl::PrintF("  trained    %s, %d steps, %d tokens, %.0f s on %s\n",
               m.training().method(), m.training().steps(),
               m.training().tokens(), m.training().seconds(),
               m.training().device());
  absl::PrintF("  licence    %s\n", TermsText(m.licence()));
  absl::PrintF("  published  %s by %s, log entry %d%s\n",
               record.published_at(), record.publisher(), record.log_index(),
               record.revoked()
                   ? absl::StrCat("; REVOKED: ", record.revoked_reason())
                   : "");
  absl::PrintF("  signature  good; files in %s\n", folder);
  return absl::OkStatus();
}

absl::Status Fetch(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Session session, Connect(context));
  ProgressLine progress(absl::StrCat("fetch ", options.id));
  MOTET_ASSIGN_OR_RETURN(
      v1::PackageRecord record,
      session.client->Fetch(
          options.id, options.folder, [&](uint64_t done, uint64_t total) {
            progress.Update(total == 0 ? 1 : double(done) / total, "");
            return true;
          }));
  MOTET_RETURN_IF_ERROR(
      package::OpenPackage(options.folder, session.federation.authority_pem)
          .status());
  progress.Finish(absl::StrCat("verified, in ", options.folder));
  return absl::OkStatus();
}

// Works without a federation folder: an authority's certificate is enough.
absl::Status Verify(const Options& options, const Context& context) {
  std::string authority;
  if (!options.authority.empty()) {
    MOTET_ASSIGN_OR_RETURN(
        authority,
        proto::ReadFile(options.authority, proto::kMaxCertificateBytes));
  } else {
    MOTET_ASSIGN_OR_RETURN(Federation federation,
                           OpenFederation(context.federation));
    authority = federation.authority_pem;
  }
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(options.folder, authority));
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::json{
                             {"id", opened.manifest.id()},
                             {"manifest_sha256", opened.manifest_sha256},
                             {"good", true}}));
  } else {
    absl::PrintF("%s is whole and its signature is good (%s)\n",
                 opened.manifest.id(), opened.manifest_sha256);
  }
  return absl::OkStatus();
}

absl::Status Revoke(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Session session, Connect(context));
  MOTET_ASSIGN_OR_RETURN(v1::LogEntry entry,
                         session.client->Revoke(options.id, options.reason));
  absl::PrintF("%s revoked, log entry %d\n", options.id, entry.index());
  return absl::OkStatus();
}

absl::Status Log(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Session session, Connect(context));
  MOTET_ASSIGN_OR_RETURN(std::vector<v1::LogEntry> entries,
                         session.client->Log(options.from));
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<Cell>> rows;
  for (const v1::LogEntry& entry : entries) {
    const char* action =
        entry.action() == v1::LOG_PUBLISH ? "publish" : "revoke";
    list.push_back({{"index", entry.index()},
                    {"action", action},
                    {"package", entry.package_id()},
                    {"actor", entry.actor()},
                    {"time", entry.time()},
                    {"reason", entry.reason()}});
    rows.push_back({{absl::StrCat(entry.index())},
                    {action},
                    {entry.package_id()},
                    {entry.time()},
                    {entry.actor()}});
  }
  if (context.json) {
    absl::PrintF("%s\n", JsonText(list));
  } else {
    absl::PrintF("%s", AlignedTable({"entry", "action", "package", "time",
                                     "by"},
                                    rows));
  }
  return absl::OkStatus();
}

}  // namespace

void AddExpert(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "expert", "Packages in the registry: list, "
                                       "look, fetch, verify, import, revoke");
  auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* description,
                       absl::Status (*run)(const Options&, const Context&)) {
    CLI::App* command = noun->add_subcommand(name, description);
    SetAction(command, context,
              [options, &context, run] { return run(*options, context); });
    return command;
  };
  CLI::App* list = add("list", "List packages, newest state of each", List);
  list->add_option("prefix", options->prefix, "Only ids that start with this");
  CLI::App* show = add("show", "One package: what it is, its terms, its "
                               "signature",
                       Show);
  show->add_option("id", options->id, "owner/name@version or digest")
      ->required();
  CLI::App* fetch = add("fetch", "Copy a package into a folder, verified",
                        Fetch);
  fetch->add_option("id", options->id, "owner/name@version or digest")
      ->required();
  fetch->add_option("--out", options->folder, "A folder that does not exist")
      ->required();
  CLI::App* verify =
      add("verify", "Check a package folder: signature, digests, manifest",
          Verify);
  verify->add_option("folder", options->folder, "The package's folder")
      ->required();
  verify->add_option("--authority", options->authority,
                     "ca.pem, instead of the federation's");
  CLI::App* revoke = add("revoke", "Mark a package as revoked", Revoke);
  revoke->add_option("id", options->id, "owner/name@version")->required();
  revoke->add_option("--reason", options->reason, "Why, for the log")
      ->required();
  AddExpertImport(*noun, context);
  CLI::App* log = add("log", "The registry's log of publishes and "
                             "revocations",
                      Log);
  log->add_option("--from", options->from, "First entry")
      ->capture_default_str();
}

}  // namespace motet::coordinator
