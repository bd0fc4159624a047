// SPDX-License-Identifier: Apache-2.0
// Router tuning (RT) [METHODS 1.6, 2, 3]: the routers of a mixture that is
// there are trained, everything else is only read. No gradient is computed
// for what is frozen. The loss is that of step.h: cross entropy, the routers'
// z-loss, load balance.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/trainer.h"
#include "compose/model/decoder.h"

namespace motet::learn {

// Router rows of every layer, f32, [E,C] each.
struct RouterRows {
  std::vector<math::Tensor> ffn;
  std::vector<math::Tensor> attention;  // of attention experts; else none
  std::vector<std::unique_ptr<float[]>> storage;  // what both view
};
// A copy of a mixture's own.
RouterRows CopyRows(const model::Decoder& decoder);

struct RouterOptions : TrainOptions {
  // How rows choose while they are tuned.
  enum class Choice : uint8_t {
    kServed,  // as the decoder's router says, k apart
    kSwitch,  // the best, as many rows an expert as its capacity takes
    kSample,  // the best of logits with Gumbel noise, over a temperature
              // that falls in a line from the first to the last step
  } choice = Choice::kServed;
  int64_t k = 0;                  // top-k's while it is tuned; 0 = as served
  double capacity_factor = 1.5;   // kSwitch: of rows / experts
  double first_temperature = 1;   // kSample
  double last_temperature = 0.5;  // kSample
};

// From the decoder's rows, or a checkpoint's, to tuned ones. Reads the
// decoder's weights, which must outlive the call, and changes none. A router
// whose rows depend on the expert set, or that routes without rows (dense,
// anchored), is refused, as is a choice of one expert whose weight is 1
// whatever its row says: no gradient would reach it.
absl::StatusOr<RouterRows> TuneRouters(const model::Decoder& decoder,
                                       const TokenWindows& text,
                                       const RouterOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result);

// The run's decoder over `rows`, as it chooses while it is tuned; a view of
// all of them. draw: kSwitch's and kSample's, else unused.
absl::StatusOr<model::Decoder> TuningDecoder(
    const model::Decoder& decoder, const RouterRows& rows,
    const RouterOptions& options,
    std::shared_ptr<const model::BtxRouter> draw);
// What is trained of it.
std::vector<Parameter> RouterParameters(const RouterRows& rows);

}  // namespace motet::learn
