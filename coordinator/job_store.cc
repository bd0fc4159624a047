// SPDX-License-Identifier: Apache-2.0
#include "coordinator/job_store.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

// Names hold dots and dashes, so neither may part them.
std::string Who(const std::string& owner, const std::string& node) {
  return absl::StrCat(owner, "_", node);
}

template <typename Message>
absl::StatusOr<std::string> ToJson(const Message& message) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  const auto s =
      google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!s.ok()) return absl::InternalError(s.ToString());
  return text;
}

template <typename Message>
absl::StatusOr<Message> ReadJson(const std::string& path) {
  MOTET_ASSIGN_OR_RETURN(std::string text,
                         proto::ReadFile(path, proto::kMaxConfigBytes));
  Message message;
  const auto s = google::protobuf::util::JsonStringToMessage(text, &message);
  if (!s.ok()) {
    return proto::Invalid(path, s.ToString(), "a job file of this version",
                          "move the file away");
  }
  return message;
}

}  // namespace

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_PUBLISHED || state == v1::JOB_FAILED ||
         state == v1::JOB_REFUSED || state == v1::JOB_CANCELLED;
}

const char* StateName(v1::JobState state) {
  switch (state) {
    case v1::JOB_OFFERED: return "offered";
    case v1::JOB_AWAITING_CONSENT: return "awaiting consent";
    case v1::JOB_APPROVED: return "approved";
    case v1::JOB_REFUSED: return "refused";
    case v1::JOB_TRAINING: return "training";
    case v1::JOB_PUBLISHING: return "publishing";
    case v1::JOB_PUBLISHED: return "published";
    case v1::JOB_FAILED: return "failed";
    case v1::JOB_CANCELLED: return "cancelled";
    default: return "unknown";
  }
}

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(
    const std::string& folder) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  auto store = std::unique_ptr<JobStore>(new JobStore(folder));
  MOTET_ASSIGN_OR_RETURN(std::vector<std::string> ids,
                         proto::ListDirectory(folder));
  absl::MutexLock lock(&store->mutex_);
  for (const std::string& id : ids) {
    const std::string dir = absl::StrCat(folder, "/", id);
    if (!proto::Exists(dir + "/plan.json")) continue;
    MOTET_ASSIGN_OR_RETURN(store->plans_[id],
                           ReadJson<v1::TrainingPlan>(dir + "/plan.json"));
    MOTET_ASSIGN_OR_RETURN(std::vector<std::string> files,
                           proto::ListDirectory(dir));
    for (const std::string& file : files) {
      if (file == "plan.json" || !absl::EndsWith(file, ".json")) continue;
      MOTET_ASSIGN_OR_RETURN(
          v1::JobUpdate job,
          ReadJson<v1::JobUpdate>(absl::StrCat(dir, "/", file)));
      const std::string who = Who(job.owner(), job.node());
      if (file != who + ".json") {
        return proto::Invalid(absl::StrCat(dir, "/", file),
                              absl::StrCat("an update of ", who),
                              absl::StrCat("the name ", who, ".json"),
                              "move the file away");
      }
      store->jobs_[{id, who}] = job;
    }
  }
  return store;
}

absl::Status JobStore::AddPlan(const v1::TrainingPlan& plan) {
  // The id names a folder.
  MOTET_RETURN_IF_ERROR(proto::CheckName("plan id", plan.id()));
  absl::MutexLock lock(&mutex_);
  const auto found = plans_.find(plan.id());
  if (found != plans_.end()) {
    google::protobuf::util::MessageDifferencer differ;
    differ.IgnoreField(
        v1::TrainingPlan::descriptor()->FindFieldByName("issued_at"));
    if (differ.Compare(found->second, plan)) return absl::OkStatus();
    return proto::Error(absl::StatusCode::kAlreadyExists, "train offer",
                        absl::StrCat("plan id ", plan.id(),
                                     ", taken by another plan"),
                        "a new id", "choose another --id");
  }
  MOTET_ASSIGN_OR_RETURN(std::string text, ToJson(plan));
  const std::string dir = absl::StrCat(folder_, "/", plan.id());
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(dir));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(dir + "/plan.json", text));
  plans_[plan.id()] = plan;
  return absl::OkStatus();
}

absl::Status JobStore::Update(const v1::JobUpdate& update) {
  absl::MutexLock lock(&mutex_);
  if (!plans_.contains(update.plan_id())) {
    return proto::Error(absl::StatusCode::kNotFound, "job",
                        absl::StrCat("an update of plan ", update.plan_id()),
                        "a plan that this coordinator offered");
  }
  const std::string who = Who(update.owner(), update.node());
  const Key key{update.plan_id(), who};
  const auto found = jobs_.find(key);
  if (found == jobs_.end() || found->second.state() != update.state()) {
    MOTET_ASSIGN_OR_RETURN(std::string text, ToJson(update));
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
        absl::StrCat(folder_, "/", update.plan_id(), "/", who, ".json"),
        text));
  }
  jobs_[key] = update;
  return absl::OkStatus();
}

std::vector<v1::TrainingPlan> JobStore::Plans() const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::TrainingPlan> plans;
  for (const auto& [id, plan] : plans_) plans.push_back(plan);
  return plans;
}

std::vector<v1::JobUpdate> JobStore::Jobs() const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::JobUpdate> jobs;
  for (const auto& [key, job] : jobs_) jobs.push_back(job);
  return jobs;
}

std::vector<v1::TrainingPlan> JobStore::Open(const std::string& owner,
                                             const std::string& node) const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::TrainingPlan> open;
  for (const auto& [id, plan] : plans_) {
    const auto& owners = plan.owners();
    if (!owners.empty() &&
        std::find(owners.begin(), owners.end(), owner) == owners.end()) {
      continue;
    }
    const auto job = jobs_.find({id, Who(owner, node)});
    if (job == jobs_.end() || !IsFinal(job->second.state())) {
      open.push_back(plan);
    }
  }
  return open;
}

}  // namespace motet::coordinator
