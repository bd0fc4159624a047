// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/fisher.h"

#include <algorithm>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/learn/branch.h"
#include "compose/learn/statistics.h"
#include "compose/learn/step.h"
#include "proto/error.h"

namespace motet::learn {

absl::StatusOr<OwnedModel> ComputeFisher(OwnedModel& model,
                                         const TokenWindows& windows,
                                         int64_t max_tokens) {
  if (windows.count() < 1 || windows.window() < 2) {
    return proto::Invalid("Fisher information",
                          absl::StrCat(windows.count(), " windows of ",
                                       windows.window(), " tokens"),
                          "at least one of 2 tokens", "import more text");
  }
  MOTET_ASSIGN_OR_RETURN(const model::Decoder decoder, BranchDecoder(model));
  OwnedModel fisher = CopyModel(model.config, model.weights);
  const std::vector<Parameter> from = DenseParameters(model);
  std::vector<Parameter> to = DenseParameters(fisher);
  for (Parameter& p : to) {
    std::fill(p.value.f32(), p.value.f32() + p.value.size(), 0.0f);
  }
  math::Arena results(kStepArenaBlock), gradients(kStepArenaBlock);
  Tape tape(gradients);
  for (const Parameter& p : from) tape.Watch(p.watched);
  const int64_t count =
      StatisticsTokens(windows, max_tokens) / windows.window();
  const float share = 1.0f / static_cast<float>(count);
  for (int64_t i = 0; i < count; ++i) {
    const std::span<const int32_t> ids = windows.at(i);
    const Sequences one(&ids, 1);
    tape.Reset();
    BalanceTotals totals;
    RunPiece(decoder, math::Cpu(), one, CountsOf(one), StepOptions{}, results,
             gradients, tape, totals);
    for (size_t p = 0; p < from.size(); ++p) {
      const math::Tensor gradient = tape.Gradient(from[p].watched);
      const float* g = gradient.f32();
      float* sum = to[p].value.f32();
      const int64_t n = gradient.size();
#pragma omp parallel for
      for (int64_t j = 0; j < n; ++j) sum[j] += share * g[j] * g[j];
    }
  }
  return fisher;
}

}  // namespace motet::learn
