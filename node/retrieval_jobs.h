// SPDX-License-Identifier: Apache-2.0
// The work of plans of kinds "embedding_adapter" and "pilots" (METHODS 9): a
// base encoder and the owner's documents, queries and judgements enter; an
// adapter, or means of groups of query vectors, leave. Both keep checkpoints
// and go on from them to the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/adapter_run.h"
#include "compose/package/package_folder.h"
#include "compose/package/peft.h"
#include "compose/retrieve/beir.h"
#include "compose/retrieve/pilots.h"
#include "compose/retrieve/text_encoder.h"
#include "node/policy.h"
#include "training.pb.h"

namespace motet::node {

struct EncoderBase {
  package::OpenedPackage package;
  std::unique_ptr<retrieve::TextEncoder> encoder;
};
// Reads what a job needs of a verified encoder package. FailedPrecondition
// where the plan's arithmetic is not this processor's.
absl::StatusOr<EncoderBase> LoadEncoderBase(package::OpenedPackage opened,
                                            const v1::TrainingPlan& plan);

// Places of one job's files.
struct RetrievalFiles {
  std::string checkpoint;  // of the job
  std::string vectors;     // folder of the base's document vectors, kept
};

struct TrainedAdapter {
  learn::OwnedLora lora;
  learn::TrainResult result;
  int64_t documents = 0, queries = 0;
};
// progress: as learn::OnProgress. encoding: how much of the documents has
// been encoded. training: called once between both.
absl::StatusOr<TrainedAdapter> TrainAdapter(
    const v1::TrainingPlan& plan, const Policy& policy, const EncoderBase& base,
    const retrieve::BeirSet& set, const RetrievalFiles& files,
    const retrieve::Fraction& encoding, const std::function<void()>& training,
    const learn::OnProgress& progress);

struct OwnersPilots {
  double gate_share = 0;  // 0: the plan's consent is to pilots without gates
  retrieve::MadePilots made;
  int64_t documents = 0, queries = 0;  // that were ranked
  double seconds = 0;                  // of this process
};
struct ScoringProgress {
  int64_t done = 0, all = 0;  // rankings
  double seconds = 0, eta_seconds = 0;
};
// Ranks the owner's queries with each of plan.scored's adapters, in their
// order, against the owner's documents, and groups them by the best;
// `own`: the owner's, which ties go to. Groups below the policy's floor are
// withheld; FailedPrecondition when that leaves none. progress: after each
// adapter, whose scores are then in the checkpoint; false: Cancelled.
absl::StatusOr<OwnersPilots> MakeOwnersPilots(
    const v1::TrainingPlan& plan, const Policy& policy, const EncoderBase& base,
    const retrieve::BeirSet& set,
    std::span<const std::unique_ptr<package::LoadedLora>> adapters, int own,
    const RetrievalFiles& files, const retrieve::Fraction& encoding,
    const std::function<bool(const ScoringProgress&)>& progress);

}  // namespace motet::node
