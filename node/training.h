// SPDX-License-Identifier: Apache-2.0
// One owner's run, as a plan asks for it: base, own text and public text
// enter; own FFNs and router rows, or a branch of the base, and the statistics
// of METHODS 11 leave. The
// trainer keeps the checkpoint; a run that is stopped or killed goes on from
// it to the same bits, with the same number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/branch.h"
#include "compose/learn/proxy.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "node/base_store.h"
#include "node/row_start.h"
#include "training.pb.h"

namespace motet::node {

// What a plan's kind and size come to at this node.
struct Size {
  int64_t ffn_width = 0;        // F; 0 = the base's
  int64_t stop_step = 0;        // 0 = all of the plan's
  double probe_perplexity = 0;  // 0 = not asked for
};

struct TrainedExpert {
  bool whole = false;          // a branch; else an expert beside the base
  learn::OwnerExpert expert;
  learn::OwnedModel branch;
  Size size;
  learn::TrainResult result;
  std::vector<learn::OwnerLayer> statistics;  // where the plan's kind has any
  std::vector<learn::SecondMoments> moments;  // where the plan asks for them
  std::optional<learn::OwnedModel> fisher;    // where the plan asks for it
  std::optional<learn::ProxyScores> proxy;    // likewise
  int64_t documents = 0;         // behind the statistics
  int64_t statistics_tokens = 0;
  double noise = 0;              // on the statistics' means
  RowStart start;
};

// `documents`: the owner's training text; held_out: the text that it is
// evaluated on where the plan asks for it. progress: learn::OnProgress; false
// stops after a checkpoint (Cancelled). noise: on published means, of the
// owner's policy. trained: called once between training and statistics.
// start: where router rows begin (row_start.h); it goes into the result.
absl::StatusOr<TrainedExpert> TrainExpert(
    const v1::TrainingPlan& plan, const Base& base,
    const std::vector<std::string>& documents,
    const std::vector<std::string>& held_out,
    const std::string& checkpoint_path, double noise,
    const learn::OnProgress& progress, const std::function<void()>& trained,
    RowStart start = {});

// The gates whose thresholds a node publishes beside the plan's own: the
// plan's smoothing, none, and the prefix's mean, at three quantiles, and all of
// these again for a metric of rank 8, 16 and 32 (below a base's width).
std::vector<learn::OwnerGate> FurtherGates(const v1::TrainingPlan& plan,
                                           int64_t width);

// The plan's numbers as the trainer takes them.
learn::OwnerOptions OptionsOf(const v1::TrainingPlan& plan,
                              const std::string& checkpoint_path);

// Threads of OpenMP regions that the calling thread starts from now on.
void UseThreads(int64_t threads);

}  // namespace motet::node
