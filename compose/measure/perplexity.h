// SPDX-License-Identifier: Apache-2.0
// How well a model predicts text. Documents are joined by the separator and
// cut in windows; every window is scored from its second token, so a token is
// never predicted from nothing and never from another window.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "compose/learn/corpus.h"
#include "compose/math/exec.h"
#include "compose/model/decoder.h"

namespace motet::measure {

struct Score {
  double nll = 0;      // sum of -ln p over the scored tokens
  int64_t tokens = 0;  // scored
  double Perplexity() const;
};
struct ScoreOptions {
  math::ExpertMask allowed = ~math::ExpertMask{0};
  int64_t max_tokens = 0;    // of text, whole windows; 0 = all
  int64_t batch_rows = 1024;  // about this many tokens at once; the score does
                              // not depend on it
  std::function<void(int64_t tokens)> progress;  // text tokens just done
};

// Windows that a cap leaves: at least one, if there is one.
int64_t CappedWindows(const learn::TokenWindows& windows, int64_t max_tokens);

//   nll = - sum_t ln softmax(logits_{t-1})[id_t],  t = 1 .. window - 1
// Product::kExact: a window's score is the same in whatever batch.
absl::StatusOr<Score> ScoreWindows(const model::Decoder& decoder,
                                   const learn::TokenWindows& windows,
                                   const ScoreOptions& options = {});

}  // namespace motet::measure
