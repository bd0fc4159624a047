// SPDX-License-Identifier: Apache-2.0
// motet-node jobs list|show|approve|refuse|forget: the owner's side of
// training plans. Works on the folder; a running daemon sees the change
// within a moment, a stopped one at its next start.
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "node/cli.h"
#include "node/job_store.h"
#include "node/plan_check.h"
#include "node/policy.h"
#include "node/progress.h"
#include "node/settings.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::node {
namespace {

using nlohmann::json;

struct Options {
  std::string id, reason;
  bool restart = false;
};

json ToJson(const JobRecord& job, const Settings& settings) {
  return {{"plan", job.plan.id()},
          {"state", StateName(job.state)},
          {"detail", job.detail},
          {"makes", PackageId(job.plan, settings)},
          {"from", job.from},
          {"received_at", job.received_at},
          {"decided_by", job.decided_by},
          {"step", job.step},
          {"steps", job.all_steps()},
          {"loss", job.loss},
          {"tokens_per_second", job.tokens_per_second},
          {"seconds", job.seconds},
          {"threads", job.threads},
          {"peak_rss_mib", job.peak_rss_mib},
          {"package_id", job.package_id},
          {"manifest_sha256", job.manifest_sha256}};
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::Status List(const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Settings settings, LoadSettings(context.dir));
  MOTET_ASSIGN_OR_RETURN(std::vector<JobRecord> jobs, ReadJobs(context.dir));
  if (context.json) {
    json list = json::array();
    for (const JobRecord& job : jobs) list.push_back(ToJson(job, settings));
    absl::PrintF("%s\n", Dump(list));
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {
      {"PLAN", "STATE", "STEP", "MAKES", "DETAIL"}};
  for (const JobRecord& job : jobs) {
    rows.push_back({job.plan.id(), StateName(job.state),
                    absl::StrCat(job.step, "/", job.all_steps()),
                    PackageId(job.plan, settings), job.detail});
  }
  if (jobs.empty()) {
    absl::FPrintF(stderr, "No plan has been offered to this node yet.\n");
  } else {
    absl::PrintF("%s", Table(rows));
  }
  return absl::OkStatus();
}

absl::Status Show(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Settings settings, LoadSettings(context.dir));
  MOTET_ASSIGN_OR_RETURN(JobRecord job, ReadJob(context.dir, options.id));
  if (context.json) {
    json value = ToJson(job, settings);
    value["plan_json"] = json::parse(PlanJson(job.plan), nullptr, false);
    absl::PrintF("%s\n", Dump(value));
    return absl::OkStatus();
  }
  absl::PrintF("%s", DescribePlan(job.plan, settings,
                                  LoadPolicy(settings.dir), ""));
  absl::PrintF("received    %s from %s\n", job.received_at, job.from);
  absl::PrintF("state       %s%s%s\n", StateName(job.state),
               job.detail.empty() ? "" : ": ", job.detail);
  if (!job.decided_by.empty()) {
    absl::PrintF("decided     by %s\n", job.decided_by);
  }
  if (job.step > 0) {
    absl::PrintF(
        "progress    step %d of %d, loss %.4f, %.0f tokens/s, %s, %d "
        "threads, %.0f MiB at most\n",
        job.step, job.all_steps(), job.loss, job.tokens_per_second,
        Duration(job.seconds), job.threads, job.peak_rss_mib);
  }
  if (!job.package_id.empty()) {
    absl::PrintF("published   %s (manifest %s)\n", job.package_id,
                 job.manifest_sha256);
  }
  return absl::OkStatus();
}

absl::Status Decide(const Options& options, const Context& context,
                    OwnerDecision::Kind kind) {
  MOTET_RETURN_IF_ERROR(LoadSettings(context.dir).status());
  MOTET_RETURN_IF_ERROR(
      LeaveDecision(context.dir, options.id,
                    {.kind = kind, .reason = options.reason, .stamp = ""}));
  const bool refuse = kind == OwnerDecision::Kind::kRefuse;
  absl::FPrintF(stderr,
                "%s is %s; a running motet-node takes this up at once, else "
                "its next start does.\n",
                options.id, refuse ? "refused" : "approved");
  return absl::OkStatus();
}

}  // namespace

void AddJobs(CLI::App& app, Context& context) {
  CLI::App* noun = app.add_subcommand(
      "jobs", "Training plans offered to this node, and your consent");
  noun->require_subcommand(1);
  auto o = std::make_shared<Options>();
  const auto plan = [&](CLI::App* command) {
    command->add_option("plan", o->id, "The plan's id")->required();
  };
  CLI::App* list = noun->add_subcommand("list", "All jobs, oldest first");
  AddOutput(list, context);
  SetAction(list, context, [&context] { return List(context); });

  CLI::App* show = noun->add_subcommand(
      "show", "One plan in words: what it trains, what would leave, how far "
              "it is");
  plan(show);
  AddOutput(show, context);
  SetAction(show, context, [o, &context] { return Show(*o, context); });

  CLI::App* approve = noun->add_subcommand(
      "approve", "Consent to a plan; or try a failed job again from where it "
                 "stopped");
  plan(approve);
  approve->add_flag("--restart", o->restart,
                    "For a failed or cancelled job: forget its checkpoint "
                    "and begin afresh");
  SetAction(approve, context, [o, &context] {
    return Decide(*o, context,
                  o->restart ? OwnerDecision::Kind::kRestart
                             : OwnerDecision::Kind::kApprove);
  });

  CLI::App* refuse = noun->add_subcommand(
      "refuse", "Decline a plan; a running job stops after its step");
  plan(refuse);
  refuse->add_option("--reason", o->reason,
                     "Told to the coordinator's administrators");
  SetAction(refuse, context, [o, &context] {
    return Decide(*o, context, OwnerDecision::Kind::kRefuse);
  });

  CLI::App* forget = noun->add_subcommand(
      "forget", "Remove a finished job's folder: plan, checkpoint, package");
  plan(forget);
  SetAction(forget, context,
            [o, &context] { return ForgetJob(context.dir, o->id); });
}

}  // namespace motet::node
