// SPDX-License-Identifier: Apache-2.0
#include "node/daemon.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/membership.h"
#include "node/plan_check.h"
#include "node/policy.h"
#include "proto/error.h"

namespace motet::node {
namespace {

// A plan that is no plan is not kept when it is larger than this.
constexpr size_t kMaxKeptPlanBytes = 512 << 10;

// Every thread of the daemon counts itself out, so that Wait can see it.
template <typename Body>
std::thread Counted(std::mutex& mutex, std::condition_variable& changed,
                    int& running, Body body) {
  ++running;
  return std::thread([&mutex, &changed, &running, body] {
    body();
    std::lock_guard lock(mutex);
    --running;
    changed.notify_all();
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Create(DaemonOptions options) {
  const Settings& settings = options.settings;
  MOTET_RETURN_IF_ERROR(CheckJoined(settings));
  // Said now rather than at the first offer.
  MOTET_RETURN_IF_ERROR(LoadPolicy(settings.dir).status());
  MOTET_ASSIGN_OR_RETURN(
      proto::FileLock lock,
      proto::FileLock::Take(settings.Path("node.lock"),
                            "another motet-node run of this folder"));
  MOTET_RETURN_IF_ERROR(
      proto::ClientChannel(settings.coordinator, settings.Tls(), "coordinator")
          .status());
  MOTET_ASSIGN_OR_RETURN(std::unique_ptr<JobStore> jobs,
                         JobStore::Open(settings.dir));
  if (!options.registry) {
    options.registry = [address = settings.registry, tls = settings.Tls()] {
      return registry::Client::Make(address, tls);
    };
  }
  return std::unique_ptr<Daemon>(
      new Daemon(std::move(options), std::move(lock), std::move(jobs)));
}

Daemon::Daemon(DaemonOptions options, proto::FileLock lock,
               std::unique_ptr<JobStore> jobs)
    : options_(std::move(options)),
      lock_(std::move(lock)),
      jobs_(std::move(jobs)) {
  runner_ = std::make_unique<Runner>(RunnerContext{
      .settings = options_.settings,
      .jobs = jobs_.get(),
      .registry = options_.registry,
      .first_backoff_ms = options_.first_backoff_ms,
      .longest_backoff_ms = options_.longest_backoff_ms});
  ConnectionOptions dial;
  dial.address = options_.settings.coordinator;
  dial.name = options_.settings.Name();
  dial.tls = options_.settings.Tls();
  dial.first_backoff_ms = options_.first_backoff_ms;
  dial.longest_backoff_ms = options_.longest_backoff_ms;
  dial.hello = [this] { return Hello(); };
  dial.on_message = [this](const v1::CoordinatorMessage& message,
                           const std::string& from) {
    OnMessage(message, from);
  };
  connection_ = std::make_unique<Connection>(std::move(dial));
  jobs_->OnChange([this](const JobRecord& record, bool urgent) {
    connection_->Send(ToUpdate(record), urgent);
    if (urgent) {
      std::lock_guard lock(mutex_);
      changed_.notify_all();
    }
  });
}

Daemon::~Daemon() {
  Stop();
  for (std::thread* t : {&dialler_, &watcher_, &worker_}) {
    if (t->joinable()) t->join();
  }
}

void Daemon::Start() {
  std::lock_guard lock(mutex_);
  dialler_ = Counted(mutex_, changed_, running_, [this] {
    connection_->Run();
  });
  watcher_ = Counted(mutex_, changed_, running_, [this] { WatchFolder(); });
  worker_ = Counted(mutex_, changed_, running_, [this] { Work(); });
}

void Daemon::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  runner_->Stop();
  connection_->Stop();
}

bool Daemon::Wait() {
  std::unique_lock lock(mutex_);
  // Training may take a step's time; anything else is given a moment.
  while (running_ > 0) {
    if (changed_.wait_for(lock, std::chrono::milliseconds(1000),
                          [this] { return running_ == 0; })) {
      break;
    }
    if (runner_->abandonable()) return false;
  }
  return true;
}

v1::NodeHello Daemon::Hello() const {
  v1::NodeHello hello;
  hello.set_software("motet " MOTET_VERSION);
  for (const JobRecord& job : jobs_->List()) *hello.add_jobs() = ToUpdate(job);
  return hello;
}

void Daemon::OnMessage(const v1::CoordinatorMessage& message,
                       const std::string& from) {
  if (message.has_offer()) {
    OnOffer(message.offer(), from);
  } else if (!message.cancel_plan_id().empty()) {
    OnCancel(message.cancel_plan_id());
  }
}

void Daemon::OnOffer(const v1::TrainingPlan& plan, const std::string& from) {
  const Settings& settings = options_.settings;
  JobRecord job;
  job.plan = plan;
  job.from = from;
  job.received_at = Now();
  if (const auto known = jobs_->Get(plan.id()); known.ok()) {
    if (PlanJson(known->plan) != PlanJson(plan)) {
      spdlog::warn("{}: offered again with other contents: ignored, a plan "
                   "never changes", plan.id());
    }
    connection_->Send(ToUpdate(*known), true);
    return;
  }
  if (IsForgotten(settings.dir, plan.id())) {
    job.state = v1::JOB_REFUSED;
    job.public_detail = "this owner has forgotten the plan";
    connection_->Send(ToUpdate(job), true);
    return;
  }
  const std::vector<std::string> problems =
      CheckPlan(plan, settings.federation, settings.owner);
  if (!problems.empty()) {
    job.state = v1::JOB_REFUSED;
    job.decided_by = "policy";
    job.detail = job.public_detail = absl::StrCat(
        "[plan] got ", absl::StrJoin(problems, "; "),
        "; offer a corrected plan under a new id");
    spdlog::warn("a plan was refused: {}", job.detail);
    if (!IsPlanId(plan.id()) || PlanJson(plan).size() > kMaxKeptPlanBytes) {
      connection_->Send(ToUpdate(job), true);
      return;
    }
  } else {
    const auto policy = LoadPolicy(settings.dir);
    std::string words = DescribePlan(plan, settings, policy);
    words.pop_back();  // the log ends lines itself
    spdlog::info("a training plan from {}:\n{}", from, words);
    Decision decision;
    if (policy.ok()) {
      decision = Decide(*policy, plan, from);
    } else {
      decision.reasons = {std::string(policy.status().message())};
    }
    if (decision.approved) {
      job.state = v1::JOB_APPROVED;
      job.decided_by = "policy";
      job.detail = job.public_detail = "approved by the owner's policy";
      spdlog::info("{}: approved by policy.toml", plan.id());
    } else {
      job.state = v1::JOB_AWAITING_CONSENT;
      job.detail = absl::StrCat("waits for the owner: ",
                                absl::StrJoin(decision.reasons, "; "));
      job.public_detail = "waits for the owner's consent";
      spdlog::info("{}: waits for your consent: {}", plan.id(),
                   absl::StrJoin(decision.reasons, "; "));
      spdlog::info("{}: motet-node jobs approve {} --dir {}   (or: refuse)",
                   plan.id(), plan.id(), settings.dir);
    }
  }
  if (absl::Status s = jobs_->Add(job); !s.ok()) {
    // Not stored, so not taken: the coordinator offers it at the next dial.
    spdlog::error("{}: {}", plan.id(), std::string(s.message()));
    job.state = v1::JOB_OFFERED;
    job.public_detail = "the node could not store the plan";
    connection_->Send(ToUpdate(job), true);
  }
}

void Daemon::OnCancel(const std::string& id) {
  const auto known = jobs_->Get(id);
  if (!known.ok() || known->finished()) return;
  spdlog::info("{}: cancelled by the coordinator", id);
  const absl::Status s = jobs_->Change(id, [](JobRecord& r) {
    if (r.finished()) return;
    r.decided_by = "coordinator";
    r.detail = r.public_detail = "cancelled by the coordinator";
    if (r.state == v1::JOB_TRAINING || r.state == v1::JOB_PUBLISHING) {
      r.cancel_requested = true;
    } else {
      r.state = v1::JOB_CANCELLED;
    }
  });
  if (!s.ok()) spdlog::error("{}: {}", id, std::string(s.message()));
  runner_->Wake();
}

void Daemon::WatchFolder() {
  std::string last;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const absl::Status s = jobs_->Poll();
    const std::string message(s.message());
    if (!s.ok() && message != last) spdlog::error("{}", message);
    last = message;
    runner_->Wake();
    lock.lock();
    changed_.wait_for(lock, std::chrono::milliseconds(options_.poll_ms),
                      [this] { return stopping_; });
  }
}

std::string Daemon::NextJob() const {
  for (const JobRecord& job : jobs_->List()) {
    if (job.running()) return job.plan.id();
  }
  return "";
}

void Daemon::Work() {
  for (;;) {
    std::string id;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] {
        return stopping_ || !(id = NextJob()).empty();
      });
      if (stopping_) return;
    }
    runner_->Run(id);
  }
}

}  // namespace motet::node
