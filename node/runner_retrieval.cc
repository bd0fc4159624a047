// SPDX-License-Identifier: Apache-2.0
// The runner's jobs of retrieval: corpus, base, and for pilots the scored
// adapters; then the work, and its package. Everything else of a job is as
// runner.cc has it.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/package/manifest_retrieval.h"
#include "node/base_store.h"
#include "node/plan_check.h"
#include "node/progress.h"
#include "node/retrieval_package.h"
#include "node/runner.h"
#include "node/training.h"
#include "proto/error.h"

namespace motet::node {
namespace {

double Finite(double value) { return std::isfinite(value) ? value : 0; }

}  // namespace

absl::Status Runner::TrainRetrieval(const JobRecord& job) {
  const std::string& id = job.plan.id();
  const Settings& settings = context_.settings;
  stage_ = Stage::kCorpus;
  MOTET_ASSIGN_OR_RETURN(const Policy policy, LoadPolicy(settings.dir));
  MOTET_ASSIGN_OR_RETURN(const RetrievalCorpus corpus,
                         LoadRetrieval(settings, policy.min_queries));
  MOTET_RETURN_IF_ERROR(CheckCorpus(job, "corpus/retrieval", corpus.sha256));

  stage_ = Stage::kBase;
  MOTET_ASSIGN_OR_RETURN(auto client, context_.registry());
  ProgressLine fetching(absl::StrCat(id, " fetching the base"));
  MOTET_ASSIGN_OR_RETURN(
      package::OpenedPackage opened,
      EnsureBase(settings, job.plan.base(), package::kEncoder, *client,
                 [&](uint64_t done, uint64_t total) {
                   fetching.Update(total == 0 ? 1 : 1.0 * done / total, "");
                   return !Interrupted(id);
                 }));
  MOTET_ASSIGN_OR_RETURN(const EncoderBase base,
                         LoadEncoderBase(std::move(opened), job.plan));
  UseThreads(job.threads);
  return job.plan.kind() == package::kPilots
             ? RunPilots(job, policy, base, corpus, *client)
             : RunAdapter(job, policy, base, corpus);
}

absl::Status Runner::RunAdapter(const JobRecord& job, const Policy& policy,
                                const EncoderBase& base,
                                const RetrievalCorpus& corpus) {
  const std::string& id = job.plan.id();
  JobStore& jobs = *context_.jobs;
  stage_ = Stage::kTraining;
  spdlog::info(
      "{}: training an adapter with {} threads, {} queries, {} "
      "documents",
      id, job.threads, corpus.set.queries.size(), corpus.set.documents.size());
  const double seconds_before = job.seconds;
  Tell(id, "encoding documents", "encoding documents");
  ProgressLine encoding(absl::StrCat(id, " encoding documents"));
  ProgressLine line(absl::StrCat(id, " training"));
  MOTET_ASSIGN_OR_RETURN(
      const TrainedAdapter trained,
      TrainAdapter(
          job.plan, policy, base, corpus.set,
          {jobs.JobPath(id, "checkpoint"),
           context_.settings.Path("corpus/vectors")},
          [&](double part) {
            encoding.Update(part, "");
            return !Interrupted(id);
          },
          [&] {
            abandonable_ = false;
            Tell(id, "training", "training");
          },
          [&](const learn::TrainProgress& p) {
            return Report(id, p, seconds_before, line);
          }));
  abandonable_ = true;
  if (Interrupted(id)) return absl::CancelledError("stopped");
  stage_ = Stage::kPackage;
  MOTET_RETURN_IF_ERROR(WriteAdapterPackage(context_.settings, policy, job.plan,
                                            base, trained, jobs.JobPath(id)));
  jobs.Progress(id, [&](JobRecord& r) {
    r.step = static_cast<uint64_t>(trained.result.steps);
    r.seconds = trained.result.seconds;
    r.peak_rss_mib = PeakRssMib();
  });
  spdlog::info("{}: an adapter of {} queries in {}", id, trained.queries,
               Duration(trained.result.seconds));
  return absl::OkStatus();
}

absl::Status Runner::RunPilots(const JobRecord& job, const Policy& policy,
                               const EncoderBase& base,
                               const RetrievalCorpus& corpus,
                               registry::Client& client) {
  const std::string& id = job.plan.id();
  const Settings& settings = context_.settings;
  JobStore& jobs = *context_.jobs;
  const v1::ScoredExpert* own = OwnScored(job.plan, settings.owner);
  int own_index = -1;
  std::vector<std::unique_ptr<package::LoadedLora>> adapters;
  for (const v1::ScoredExpert& e : job.plan.scored()) {
    if (&e == own) own_index = static_cast<int>(adapters.size());
    MOTET_ASSIGN_OR_RETURN(
        const package::OpenedPackage opened,
        EnsureAdapter(settings, e, base.package, client,
                      [&](uint64_t, uint64_t) { return !Interrupted(id); }));
    MOTET_ASSIGN_OR_RETURN(
        auto lora, package::LoadLora(opened.folder, base.encoder->config()));
    adapters.push_back(std::move(lora));
  }
  stage_ = Stage::kTraining;
  spdlog::info(
      "{}: scoring {} queries with {} adapters against {} documents, "
      "{} threads",
      id, corpus.set.queries.size(), adapters.size(),
      corpus.set.documents.size(), job.threads);
  Tell(id, "scoring queries", "scoring queries");
  ProgressLine encoding(absl::StrCat(id, " encoding documents"));
  ProgressLine line(absl::StrCat(id, " scoring"));
  const double seconds_before = job.seconds;
  MOTET_ASSIGN_OR_RETURN(
      const OwnersPilots pilots,
      MakeOwnersPilots(
          job.plan, policy, base, corpus.set, adapters, own_index,
          {jobs.JobPath(id, "checkpoint"), settings.Path("corpus/vectors")},
          [&](double part) {
            encoding.Update(part, "");
            return !Interrupted(id);
          },
          [&](const ScoringProgress& p) {
            line.Update(1.0 * p.done / std::max<int64_t>(p.all, 1),
                        absl::StrFormat("%d of %d rankings, %s left", p.done,
                                        p.all, Duration(p.eta_seconds)));
            jobs.Progress(id, [&](JobRecord& r) {
              r.step = static_cast<uint64_t>(p.done);
              r.steps = static_cast<uint64_t>(p.all);
              r.eta_seconds = Finite(p.eta_seconds);
              r.seconds = seconds_before + p.seconds;
              r.peak_rss_mib = PeakRssMib();
            });
            return !Interrupted(id);
          }));
  if (Interrupted(id)) return absl::CancelledError("stopped");
  stage_ = Stage::kPackage;
  MOTET_RETURN_IF_ERROR(WritePilotsPackage(settings, policy, job.plan, base,
                                           pilots, jobs.JobPath(id)));
  spdlog::info(
      "{}: {} pilots of {} rankings; {} groups below {} queries stay "
      "here",
      id, pilots.made.groups.size(), pilots.made.scorings, pilots.made.withheld,
      policy.min_queries);
  return absl::OkStatus();
}

}  // namespace motet::node
