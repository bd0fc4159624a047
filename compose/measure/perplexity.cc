// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/perplexity.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

// Logits of a whole batch would need rows x V floats; this many at once.
constexpr int64_t kLogitFloats = int64_t{4} << 20;

// Adds -ln p of every target >= 0, in row order.
double SumNll(math::Exec& exec, const model::Decoder& decoder,
              const math::Tensor& hidden, std::span<const int32_t> targets) {
  const int64_t step =
      std::max<int64_t>(16, kLogitFloats / decoder.config().vocabulary);
  double sum = 0;
  for (int64_t row = 0; row < hidden.rows(); row += step) {
    const int64_t rows = std::min(step, hidden.rows() - row);
    const math::Arena::Mark mark = exec.arena().mark();
    const math::Tensor logits =
        decoder.Logits(exec, hidden.RowSlice(row, rows));
    const auto part = targets.subspan(row, rows);
    math::Tensor nll = exec.arena().New({rows});
    exec.CrossEntropy(logits, part, 0.0, &nll);
    for (int64_t i = 0; i < rows; ++i) {
      if (part[i] >= 0) sum += nll.f32()[i];
    }
    exec.arena().Release(mark);
  }
  return sum;
}

}  // namespace

double Score::Perplexity() const {
  return tokens == 0 ? NAN : std::exp(nll / static_cast<double>(tokens));
}

int64_t CappedWindows(const learn::TokenWindows& windows,
                      int64_t max_tokens) {
  if (max_tokens <= 0) return windows.count();
  return std::min(windows.count(),
                  std::max<int64_t>(1, max_tokens / windows.window()));
}

absl::StatusOr<Score> ScoreWindows(const model::Decoder& decoder,
                                   const learn::TokenWindows& windows,
                                   const ScoreOptions& options) {
  const int64_t window = windows.window();
  const int64_t count = CappedWindows(windows, options.max_tokens);
  if (window < 2 || count == 0) {
    return proto::Invalid(
        "perplexity",
        absl::StrCat(windows.tokens(), " tokens in windows of ", window),
        "at least one window of 2 tokens",
        "give more text or a smaller window");
  }
  if (window > decoder.config().max_positions) {
    return proto::Invalid("perplexity", absl::StrCat("a window of ", window),
                          absl::StrCat("at most the model's context of ",
                                       decoder.config().max_positions));
  }
  const int64_t at_once = std::max<int64_t>(1, options.batch_rows / window);
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  Score score;
  for (int64_t first = 0; first < count; first += at_once) {
    const int64_t n = std::min(at_once, count - first);
    std::vector<model::SequenceInput> inputs;
    std::vector<int32_t> targets;
    for (int64_t i = first; i < first + n; ++i) {
      const std::span<const int32_t> ids = windows.at(i);
      inputs.push_back({ids, nullptr, options.allowed});
      targets.insert(targets.end(), ids.begin() + 1, ids.end());
      targets.push_back(-1);
    }
    const model::Batch batch(inputs);
    arena.Reset();
    const math::Tensor hidden = decoder.Forward(exec, batch);
    score.nll += SumNll(exec, decoder, hidden, targets);
    score.tokens += n * (window - 1);
    if (options.progress) options.progress(n * window);
  }
  return score;
}

}  // namespace motet::measure
