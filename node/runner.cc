// SPDX-License-Identifier: Apache-2.0
#include "node/runner.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "compose/package/manifest_training.h"
#include "node/base_store.h"
#include "node/corpus_store.h"
#include "node/expert_package.h"
#include "node/plan_check.h"
#include "node/policy.h"
#include "node/progress.h"
#include "node/training.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::node {
namespace {

// What passes by itself: a registry that is down, a disk that is full.
bool PassesByItself(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status);
}

double Finite(double value) { return std::isfinite(value) ? value : 0; }

}  // namespace

Runner::Runner(RunnerContext context) : context_(std::move(context)) {}

void Runner::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  wake_.notify_all();
}

void Runner::Wake() {
  std::lock_guard lock(mutex_);
  wake_.notify_all();
}

bool Runner::Interrupted(const std::string& id) const {
  if (stopped_) return true;
  const auto job = context_.jobs->Get(id);
  return !job.ok() || job->cancel_requested || job->finished();
}

bool Runner::WaitMs(const std::string& id, int ms) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, std::chrono::milliseconds(ms),
                         [&] { return Interrupted(id); });
}

void Runner::Run(const std::string& id) {
  int backoff_ms = context_.first_backoff_ms;
  std::string last;
  for (;;) {
    const absl::Status status =
        Interrupted(id) ? absl::CancelledError("stopped") : Advance(id);
    abandonable_ = true;
    const auto job = context_.jobs->Get(id);
    if (!job.ok() || stopped_) return;
    if (job->finished()) return;
    if (!PassesByItself(status) || job->cancel_requested) {
      Conclude(id, status);
      const auto now = context_.jobs->Get(id);
      // The store may be on the full disk: try again until it is written.
      if (!now.ok() || now->finished()) return;
    } else {
      const std::string message(status.message());
      if (message != last) {
        spdlog::warn("{}: {}", id, message);
        spdlog::info("{}: waiting, and trying again by itself", id);
        last = message;
        Tell(id, "waiting: " + message, "waiting: " + PublicReason(status));
      }
    }
    if (WaitMs(id, backoff_ms)) {
      backoff_ms = std::min(backoff_ms * 2, context_.longest_backoff_ms);
    }
  }
}

absl::Status Runner::Advance(const std::string& id) {
  MOTET_ASSIGN_OR_RETURN(JobRecord job, context_.jobs->Get(id));
  if (job.state == v1::JOB_APPROVED) {
    MOTET_RETURN_IF_ERROR(context_.jobs->Change(id, [&](JobRecord& r) {
      if (r.state != v1::JOB_APPROVED) return;  // cancelled meanwhile
      r.state = v1::JOB_TRAINING;
      r.detail = r.public_detail = "preparing";
      if (r.threads == 0) {
        r.threads = context_.settings.threads > 0
                        ? context_.settings.threads
                        : std::max(1u, std::thread::hardware_concurrency());
      }
    }));
    MOTET_ASSIGN_OR_RETURN(job, context_.jobs->Get(id));
  }
  if (!job.running()) return absl::OkStatus();
  if (job.state == v1::JOB_TRAINING) {
    // A package that is there is whole: it was renamed into place.
    if (!proto::Exists(context_.jobs->JobPath(id, "package"))) {
      const auto* kind = package::FindTrainingKind(job.plan.kind());
      MOTET_RETURN_IF_ERROR(kind != nullptr && kind->retrieval
                                ? TrainRetrieval(job)
                                : Train(job));
    }
    MOTET_RETURN_IF_ERROR(context_.jobs->Change(id, [](JobRecord& r) {
      r.state = v1::JOB_PUBLISHING;
      r.detail = r.public_detail = "trained; publishing";
    }));
    MOTET_ASSIGN_OR_RETURN(job, context_.jobs->Get(id));
  }
  return Publish(job);
}

absl::Status Runner::CheckCorpus(const JobRecord& job, const std::string& path,
                                 const std::string& sha256) {
  const std::string& id = job.plan.id();
  if (job.corpus_sha256.empty()) {
    return context_.jobs->Change(
        id, [&](JobRecord& r) { r.corpus_sha256 = sha256; });
  }
  if (job.corpus_sha256 == sha256) return absl::OkStatus();
  return proto::Error(
      absl::StatusCode::kFailedPrecondition, context_.settings.Path(path),
      "another text than the one this job began with", "the same",
      absl::StrCat("import it again, or `motet-node jobs approve ", id,
                   " --restart` begins afresh with the new text"));
}

absl::StatusOr<RowStart> Runner::StartRows(
    const JobRecord& job, const Base& base,
    const std::vector<std::string>& own) {
  const std::string& id = job.plan.id();
  MOTET_ASSIGN_OR_RETURN(const auto encoder,
                         OpenEmbedder(job.plan, context_.settings));
  if (encoder == nullptr) return RowStart{};
  Tell(id, "embedding documents", "embedding documents");
  ProgressLine line(absl::StrCat(id, " embedding documents"));
  MOTET_ASSIGN_OR_RETURN(
      RowStart start,
      StartOf(*encoder, job.plan.embedder_seed(), base.model->config.width, own,
              base.public_documents, [&](double fraction) {
                line.Update(fraction, "");
                return !Interrupted(id);
              }));
  spdlog::info("{}: router rows begin with encoder {} over {} documents", id,
               start.embedder.sha256(), start.embedder.documents());
  return start;
}

absl::Status Runner::Train(const JobRecord& job) {
  const std::string& id = job.plan.id();
  const Settings& settings = context_.settings;
  JobStore& jobs = *context_.jobs;
  // What would stop the job at its end should stop it at its beginning.
  stage_ = Stage::kCorpus;
  MOTET_ASSIGN_OR_RETURN(Policy policy, LoadPolicy(settings.dir));
  if (const std::string bare = NotHidden(policy, job.plan); !bare.empty()) {
    return proto::Error(absl::StatusCode::kFailedPrecondition,
                        settings.Path("policy.toml"),
                        absl::StrCat("plan ", id, ": ", bare),
                        "noise = 0 or a plan without second_moments",
                        "change the policy or ask for another plan");
  }
  MOTET_ASSIGN_OR_RETURN(Corpus corpus,
                         LoadCorpus(settings, policy.min_documents));
  MOTET_RETURN_IF_ERROR(CheckCorpus(job, "corpus/train.jsonl", corpus.sha256));

  stage_ = Stage::kBase;
  MOTET_ASSIGN_OR_RETURN(auto client, context_.registry());
  ProgressLine fetching(absl::StrCat(id, " fetching the base"));
  MOTET_ASSIGN_OR_RETURN(
      package::OpenedPackage opened,
      EnsureBase(settings, job.plan.base(), "base", *client,
                 [&](uint64_t done, uint64_t total) {
                   fetching.Update(total == 0 ? 1 : 1.0 * done / total, "");
                   return !Interrupted(id);
                 }));
  MOTET_ASSIGN_OR_RETURN(Base base, LoadBase(std::move(opened)));

  UseThreads(job.threads);
  stage_ = Stage::kRows;
  MOTET_ASSIGN_OR_RETURN(RowStart start, StartRows(job, base, corpus.train));

  stage_ = Stage::kTraining;
  spdlog::info("{}: training with {} threads, {} documents", id, job.threads,
               corpus.train.size());
  const double seconds_before = job.seconds;
  Tell(id, "training", "training");
  ProgressLine line(absl::StrCat(id, " training"));
  abandonable_ = false;
  MOTET_ASSIGN_OR_RETURN(
      TrainedExpert trained,
      TrainExpert(
          job.plan, base, corpus.train, corpus.test,
          jobs.JobPath(id, "checkpoint"), policy.noise,
          [&](const learn::TrainProgress& p) {
            return Report(id, p, seconds_before, line);
          },
          [&] {
            abandonable_ = true;
            Tell(id, "trained; taking statistics",
                 "trained; taking statistics");
          },
          std::move(start)));
  if (Interrupted(id)) return absl::CancelledError("stopped");

  stage_ = Stage::kPackage;
  MOTET_RETURN_IF_ERROR(WriteExpertPackage(settings, policy, job.plan, base,
                                           trained, jobs.JobPath(id)));
  jobs.Progress(id, [&](JobRecord& r) {
    // A run that was resumed after its last step took none.
    if (r.step != r.all_steps() && !trained.result.loss_curve.empty()) {
      r.loss = Finite(trained.result.loss_curve.back());
    }
    r.step = static_cast<uint64_t>(trained.result.steps);
    r.seconds = trained.result.seconds;
    r.peak_rss_mib = PeakRssMib();
  });
  if (trained.size.probe_perplexity > 0) {
    spdlog::info("{}: the base's perplexity on the held-out text, {:.2f}, "
                 "picked FFN width {} and {} steps", id,
                 trained.size.probe_perplexity,
                 trained.branch.config.ffn_width, trained.result.steps);
  }
  spdlog::info("{}: trained in {}, last loss {:.4f}", id,
               Duration(trained.result.seconds),
               trained.result.loss_curve.empty()
                   ? 0.0
                   : trained.result.loss_curve.back());
  return absl::OkStatus();
}

absl::Status Runner::Publish(const JobRecord& job) {
  const std::string& id = job.plan.id();
  const std::string folder = context_.jobs->JobPath(id, "package");
  stage_ = Stage::kPackage;
  MOTET_ASSIGN_OR_RETURN(BuiltPackage built,
                         OpenBuilt(context_.settings, folder));
  stage_ = Stage::kPublish;
  MOTET_ASSIGN_OR_RETURN(auto client, context_.registry());
  registry::PublishOptions options;
  options.cuts = std::move(built.cuts);
  ProgressLine line(absl::StrCat(id, " publishing"));
  options.progress = [&](uint64_t done, uint64_t total) {
    line.Update(total == 0 ? 1 : 1.0 * done / total, "");
    return !Interrupted(id);
  };
  MOTET_RETURN_IF_ERROR(
      client->Publish(folder, built.id, options).status());
  spdlog::info("{}: published {} (manifest {})", id, built.id,
               built.manifest_sha256);
  return context_.jobs->Change(id, [&](JobRecord& r) {
    r.state = v1::JOB_PUBLISHED;
    r.cancel_requested = false;
    r.detail = r.public_detail = "published " + built.id;
    r.package_id = built.id;
    r.manifest_sha256 = built.manifest_sha256;
    r.eta_seconds = 0;
    r.peak_rss_mib = PeakRssMib();
  });
}

bool Runner::Report(const std::string& id, const learn::TrainProgress& p,
                    double seconds_before, ProgressLine& line) {
  line.Update(1.0 * p.step / p.steps,
              absl::StrFormat("step %d of %d, loss %.3f, %.0f tokens/s, %s left",
                              p.step, p.steps, p.loss, p.tokens_per_second,
                              Duration(p.eta_seconds)));
  context_.jobs->Progress(id, [&](JobRecord& r) {
    r.step = static_cast<uint64_t>(p.step);
    r.steps = static_cast<uint64_t>(p.steps);
    r.loss = Finite(p.loss);
    r.tokens_per_second = Finite(p.tokens_per_second);
    r.eta_seconds = Finite(p.eta_seconds);
    r.seconds = seconds_before + p.seconds;
    r.peak_rss_mib = PeakRssMib();
  });
  return !Interrupted(id);
}

void Runner::Tell(const std::string& id, const std::string& detail,
                  const std::string& public_detail) {
  const auto change = [&](JobRecord& r) {
    r.detail = detail;
    r.public_detail = public_detail;
  };
  // A full disk must not hide why a job waits.
  if (!context_.jobs->Change(id, change).ok()) {
    context_.jobs->Progress(id, change);
  }
}

void Runner::Conclude(const std::string& id, const absl::Status& status) {
  const std::string message(status.message());
  const std::string reason = PublicReason(status);
  const absl::Status stored =
      context_.jobs->Change(id, [&](JobRecord& r) {
        if (r.cancel_requested) {
          r.cancel_requested = false;
          r.state = r.decided_by == "owner" ? v1::JOB_REFUSED
                                            : v1::JOB_CANCELLED;
          return;
        }
        r.state = v1::JOB_FAILED;
        r.detail = message;
        r.public_detail = reason;
      });
  const auto job = context_.jobs->Get(id);
  if (!stored.ok()) {
    spdlog::warn("{}: {}", id, std::string(stored.message()));
  } else if (job.ok() && job->state == v1::JOB_FAILED) {
    spdlog::error("{}: {}", id, message);
    spdlog::info("{}: failed; what was trained is kept, and `motet-node jobs "
                 "approve {}` tries again from there", id, id);
  } else if (job.ok()) {
    spdlog::info("{}: {}: {}", id, StateName(job->state), job->detail);
  }
}

std::string Runner::PublicReason(const absl::Status& status) const {
  if (absl::IsResourceExhausted(status)) {
    return "no space left on the node's disk";
  }
  switch (stage_) {
    case Stage::kCorpus:
    case Stage::kRows:
    case Stage::kTraining:
    case Stage::kPackage:
      // Such messages may name files of the owner's, or lines of them.
      return absl::StrCat(
          stage_ == Stage::kCorpus     ? "the owner's text or policy"
          : stage_ == Stage::kRows     ? "the embedder of the router rows"
          : stage_ == Stage::kTraining ? "training"
                                       : "making the package",
          " failed (", absl::StatusCodeToString(status.code()),
          "); the node's log says why");
    case Stage::kBase:
    case Stage::kPublish:
      break;
  }
  return absl::StrReplaceAll(std::string(status.message()),
                             {{context_.settings.dir, "NODE"}});
}

}  // namespace motet::node
