// SPDX-License-Identifier: Apache-2.0
// motet train offer|status|cancel: training plans for owners' nodes.
#include <grpcpp/grpcpp.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/manifest_training.h"
#include "compose/package/package_folder.h"
#include "coordinator/cli.h"
#include "coordinator/federation.h"
#include "coordinator/job_store.h"
#include "coordinator/json_text.h"
#include "coordinator/scored_experts.h"
#include "coordinator/training_plan.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "proto/status.h"
#include "training.grpc.pb.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string plan;
  std::string plan_id;
  bool watch = false;
  bool dry_run = false;
};

struct Dial {
  Federation federation;
  std::unique_ptr<v1::Federation::Stub> stub;
  std::string where;
};

absl::StatusOr<Dial> Connect(const Context& context) {
  Dial dial;
  MOTET_ASSIGN_OR_RETURN(dial.federation, OpenFederation(context.federation));
  dial.where =
      absl::StrCat("coordinator ", dial.federation.coordinator_address);
  MOTET_ASSIGN_OR_RETURN(
      auto channel,
      proto::ClientChannel(dial.federation.coordinator_address,
                           dial.federation.tls, "coordinator"));
  dial.stub = v1::Federation::NewStub(channel);
  return dial;
}

void Deadline(grpc::ClientContext& call) {
  call.set_deadline(std::chrono::system_clock::now() +
                    std::chrono::seconds(20));
}

// A plan is of what its base is, and pilots are of known adapters.
absl::StatusOr<std::vector<LeftOut>> Complete(
    const Federation& federation, const package::OpenedPackage& base,
    v1::TrainingPlan& plan) {
  const package::KindRules* kind = package::FindKind(plan.kind());
  if (kind == nullptr || kind->base != base.manifest.kind()) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, "kind",
        absl::StrCat("\"", plan.kind(), "\" beside ", base.manifest.id(),
                     ", of kind \"", base.manifest.kind(), "\""),
        package::KindNamesOn(base.manifest.kind()),
        "experts belong to one base");
  }
  if (plan.kind() != package::kPilots) return std::vector<LeftOut>{};
  MOTET_ASSIGN_OR_RETURN(
      const auto client,
      registry::Client::Make(federation.registry_address, federation.tls));
  MOTET_ASSIGN_OR_RETURN(std::vector<LeftOut> left_out,
                         ResolveScored(federation, *client, base, plan));
  MOTET_RETURN_IF_ERROR(
      package::AsStatus("plan", package::CheckTrainingKind(plan),
                        "a plan of kind \"pilots\"", "correct the plan"));
  for (const LeftOut& l : left_out) {
    absl::FPrintF(stderr, "%s is left out: %s\n", l.id, l.reason);
  }
  return left_out;
}

absl::Status Offer(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(
      std::string text,
      proto::ReadFile(options.plan, proto::kMaxRecipeBytes));
  MOTET_ASSIGN_OR_RETURN(v1::TrainingPlan plan,
                         ParseTrainingPlan(text, options.plan));
  MOTET_ASSIGN_OR_RETURN(Dial dial, Connect(context));
  MOTET_ASSIGN_OR_RETURN(
      package::OpenedPackage base,
      package::OpenPackage(dial.federation.Path("base"),
                           dial.federation.authority_pem));
  *plan.mutable_base() = package::ReferenceTo(base);
  MOTET_ASSIGN_OR_RETURN(const std::vector<LeftOut> left_out,
                         Complete(dial.federation, base, plan));
  nlohmann::json said = {{"plan", plan.id()}, {"offered_to", nullptr}};
  if (plan.kind() == package::kPilots) {
    said["scored"] = nlohmann::json::array();
    for (const auto& e : plan.scored()) said["scored"].push_back(e.id());
    said["left_out"] = nlohmann::json::array();
    for (const LeftOut& l : left_out) {
      said["left_out"].push_back({{"id", l.id}, {"reason", l.reason}});
    }
  }
  plan.set_issued_by(
      absl::StrCat("spiffe://", dial.federation.name, "/coordinator/main"));
  plan.set_issued_at(
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()));
  // Of a dry run the plan is the result; otherwise it goes beside it.
  absl::FPrintF(options.dry_run && !context.json ? stdout : stderr, "%s",
                DescribePlan(plan));
  if (options.dry_run) {
    if (context.json) {
      absl::PrintF("%s\n", JsonText(said));
    }
    return absl::OkStatus();
  }
  v1::OfferReply reply;
  grpc::ClientContext call;
  Deadline(call);
  MOTET_RETURN_IF_ERROR(proto::FromGrpc(
      dial.stub->OfferPlan(&call, plan, &reply), dial.where));
  const std::vector<std::string> nodes(reply.offered_to().begin(),
                                       reply.offered_to().end());
  if (context.json) {
    said["offered_to"] = nodes;
    absl::PrintF("%s\n", JsonText(said));
  } else if (nodes.empty()) {
    absl::PrintF("Plan %s waits: no node is connected; each gets it when it "
                 "dials.\n",
                 plan.id());
  } else {
    absl::PrintF("Plan %s offered to %s. Nothing runs before each owner's "
                 "consent.\n",
                 plan.id(), absl::StrJoin(nodes, ", "));
  }
  return absl::OkStatus();
}

std::string Detail(const v1::JobUpdate& job) {
  if (job.state() == v1::JOB_TRAINING && job.steps() > 0) {
    return absl::StrFormat("step %d of %d, loss %.3f, %.0f tokens/s, %.0f s "
                           "left",
                           job.step(), job.steps(), job.loss(),
                           job.tokens_per_second(), job.eta_seconds());
  }
  return job.detail();
}

std::string ToText(const v1::StatusReply& reply) {
  std::vector<std::vector<Cell>> nodes, jobs;
  for (const auto& node : reply.nodes()) {
    nodes.push_back({{absl::StrCat(node.owner(), "/", node.node())},
                     {node.connected() ? "connected" : "away"},
                     {node.software()}});
  }
  for (const auto& job : reply.jobs()) {
    jobs.push_back({{job.plan_id()},
                    {job.owner()},
                    {StateName(job.state())},
                    {Detail(job)}});
  }
  return absl::StrCat(AlignedTable({"node", "state", "software"}, nodes), "\n",
                      AlignedTable({"plan", "owner", "state", "detail"}, jobs));
}

std::string ToJson(const v1::StatusReply& reply) {
  nlohmann::json nodes = nlohmann::json::array();
  nlohmann::json jobs = nlohmann::json::array();
  for (const auto& node : reply.nodes()) {
    nodes.push_back({{"owner", node.owner()},
                     {"node", node.node()},
                     {"connected", node.connected()}});
  }
  for (const auto& job : reply.jobs()) {
    jobs.push_back({{"plan", job.plan_id()},
                    {"owner", job.owner()},
                    {"node", job.node()},
                    {"state", StateName(job.state())},
                    {"detail", job.detail()},
                    {"step", job.step()},
                    {"steps", job.steps()},
                    {"loss", job.loss()},
                    {"seconds", job.seconds()},
                    {"peak_rss_mib", job.peak_rss_mib()},
                    {"package", job.package_id()},
                    {"manifest_sha256", job.manifest_sha256()}});
  }
  return JsonText(nlohmann::json{{"nodes", nodes}, {"jobs", jobs}});
}

// One line a job, redrawn in place on a terminal.
class Watcher {
 public:
  void Show(const v1::StatusReply& reply) {
    const bool terminal = isatty(STDERR_FILENO) == 1;
    const auto now = std::chrono::steady_clock::now();
    std::string out;
    if (terminal && lines_ > 0) absl::StrAppend(&out, "\033[", lines_, "A");
    int lines = 0;
    for (const auto& job : reply.jobs()) {
      const double part =
          job.steps() > 0 ? double(job.step()) / job.steps() : 0;
      const bool training = job.state() == v1::JOB_TRAINING;
      if (terminal) {
        std::string bar;
        for (int i = 0; i < 20; ++i) {
          absl::StrAppend(&bar, i < part * 20 ? "█" : "░");
        }
        absl::StrAppend(&out, absl::StrFormat("\033[K%-18s %s %-11s %s\n",
                                              job.owner(), bar,
                                              StateName(job.state()),
                                              Detail(job)));
        ++lines;
        continue;
      }
      // Elsewhere: a line at each change of state, and each 10 s.
      const std::string key = absl::StrCat(job.plan_id(), job.owner());
      auto& last = last_[key];
      if (last.first != job.state() ||
          (training && now - last.second > std::chrono::seconds(10))) {
        absl::StrAppend(&out, job.owner(), ": ", StateName(job.state()), " ",
                        Detail(job), "\n");
        last = {job.state(), now};
      }
    }
    lines_ = lines;
    fputs(out.c_str(), stderr);
    fflush(stderr);
  }

 private:
  int lines_ = 0;
  std::map<std::string,
           std::pair<v1::JobState, std::chrono::steady_clock::time_point>>
      last_;
};

absl::Status Status(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Dial dial, Connect(context));
  Watcher watcher;
  v1::StatusReply reply;
  for (;;) {
    grpc::ClientContext call;
    Deadline(call);
    reply.Clear();
    MOTET_RETURN_IF_ERROR(
        proto::FromGrpc(dial.stub->Status(&call, {}, &reply), dial.where));
    if (!options.plan_id.empty()) {
      auto* jobs = reply.mutable_jobs();
      jobs->erase(std::remove_if(jobs->begin(), jobs->end(),
                                 [&](const v1::JobUpdate& job) {
                                   return job.plan_id() != options.plan_id;
                                 }),
                  jobs->end());
    }
    if (!options.watch) break;
    watcher.Show(reply);
    const bool done =
        !reply.jobs().empty() &&
        std::all_of(reply.jobs().begin(), reply.jobs().end(),
                    [](const auto& job) { return IsFinal(job.state()); });
    if (done) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  absl::PrintF("%s\n", context.json ? ToJson(reply) : ToText(reply));
  if (!options.watch) return absl::OkStatus();
  std::vector<std::string> bad;
  for (const auto& job : reply.jobs()) {
    if (job.state() != v1::JOB_PUBLISHED) {
      bad.push_back(absl::StrCat(job.owner(), " ", StateName(job.state()),
                                 ": ", job.detail()));
    }
  }
  if (bad.empty()) return absl::OkStatus();
  return proto::Error(absl::StatusCode::kFailedPrecondition, "train",
                      absl::StrJoin(bad, "; "), "every job published",
                      "look at the node's log");
}

absl::Status Cancel(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Dial dial, Connect(context));
  v1::CancelRequest request;
  request.set_plan_id(options.plan_id);
  v1::CancelReply reply;
  grpc::ClientContext call;
  Deadline(call);
  return proto::FromGrpc(dial.stub->CancelPlan(&call, request, &reply),
                         dial.where);
}

}  // namespace

void AddTrain(CLI::App& app, Context& context) {
  CLI::App* noun =
      Noun(app, "train", "Training at the owners: offer plans, see progress");
  auto options = std::make_shared<Options>();
  CLI::App* offer = noun->add_subcommand(
      "offer", "Offer a training plan (TOML) to owners' nodes");
  offer->add_option("plan", options->plan, "The plan's TOML file")->required();
  offer->add_flag("--dry-run", options->dry_run, "Show the plan, send nothing");
  SetAction(offer, context,
            [options, &context] { return Offer(*options, context); });
  CLI::App* status = noun->add_subcommand(
      "status", "Nodes and jobs; with --watch, until every job has ended");
  status->add_option("plan", options->plan_id, "Only this plan's jobs");
  status->add_flag("--watch", options->watch, "Follow until all jobs end");
  SetAction(status, context,
            [options, &context] { return Status(*options, context); });
  CLI::App* cancel = noun->add_subcommand("cancel", "Withdraw a plan");
  cancel->add_option("plan", options->plan_id, "Plan id")->required();
  SetAction(cancel, context,
            [options, &context] { return Cancel(*options, context); });
}

}  // namespace motet::coordinator
