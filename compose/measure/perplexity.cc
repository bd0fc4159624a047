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

// Adds -ln p of every target >= 0, in row order.
double SumNll(math::Exec& exec, const model::Scorer& scorer,
              std::span<const model::ScorerInput> inputs,
              std::span<const int32_t> targets) {
  const model::RowRange all[] = {{0, static_cast<int64_t>(targets.size())}};
  double sum = 0;
  scorer.Run(exec, inputs, all, [&](int64_t row, const math::Tensor& logits) {
    const auto part = targets.subspan(static_cast<size_t>(row),
                                      static_cast<size_t>(logits.rows()));
    math::Tensor nll = exec.arena().New({logits.rows()});
    exec.CrossEntropy(logits, part, 0.0, &nll);
    for (size_t i = 0; i < part.size(); ++i) {
      if (part[i] >= 0) sum += nll.f32()[i];
    }
    return true;
  });
  return sum;
}

absl::Status NothingToScore(int64_t tokens, int64_t window) {
  return proto::Invalid("perplexity",
                        absl::StrCat(tokens, " tokens in windows of ", window),
                        "at least one window of 2 tokens",
                        "give more text or a smaller window");
}

// Windows of 2 tokens and more, none longer than `longest`.
absl::StatusOr<Score> ScoreSpans(
    const model::Scorer& scorer,
    const std::vector<std::span<const int32_t>>& windows, int64_t longest,
    const ScoreOptions& options) {
  if (longest > scorer.config().max_positions) {
    return proto::Invalid("perplexity", absl::StrCat("a window of ", longest),
                          absl::StrCat("at most the model's context of ",
                                       scorer.config().max_positions));
  }
  for (const std::span<const int32_t> ids : windows) {
    MOTET_RETURN_IF_ERROR(CheckIds(ids, scorer.config().vocabulary));
  }
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, options.product);
  Score score;
  for (size_t next = 0; next < windows.size();) {
    std::vector<model::ScorerInput> inputs;
    std::vector<int32_t> targets;
    do {
      const std::span<const int32_t> ids = windows[next++];
      inputs.push_back({ids, nullptr});
      targets.insert(targets.end(), ids.begin() + 1, ids.end());
      targets.push_back(-1);
    } while (next < windows.size() &&
             static_cast<int64_t>(targets.size() + windows[next].size()) <=
                 options.batch_rows);
    score.nll += SumNll(exec, scorer, inputs, targets);
    score.tokens += static_cast<int64_t>(targets.size() - inputs.size());
    if (options.progress) {
      options.progress(static_cast<int64_t>(targets.size()));
    }
  }
  if (!std::isfinite(score.nll)) {
    return proto::Error(absl::StatusCode::kDataLoss, "perplexity",
                        "a score that is no finite number", "a finite one",
                        "look for NaN or infinite weights");
  }
  return score;
}

}  // namespace

absl::Status CheckIds(std::span<const int32_t> ids, int64_t vocabulary) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocabulary) continue;
    return proto::Invalid(
        "tokenizer", absl::StrCat("token id ", id),
        absl::StrCat("ids below the model's vocabulary of ", vocabulary),
        "use the tokenizer.json that belongs to the model");
  }
  return absl::OkStatus();
}

double Score::Perplexity() const {
  return tokens == 0 ? NAN : std::exp(nll / static_cast<double>(tokens));
}

double Score::BitsPerByte(int64_t bytes) const {
  return bytes == 0 ? NAN
                    : nll / (std::log(2.0) * static_cast<double>(bytes));
}

int64_t ScoredBytes(const model::Tokenizer& tokenizer,
                    const learn::TokenWindows& windows, int64_t max_tokens) {
  std::vector<int64_t> length(static_cast<size_t>(tokenizer.vocabulary()), -1);
  int64_t bytes = 0;
  for (int64_t i = 0; i < CappedWindows(windows, max_tokens); ++i) {
    for (const int32_t id : windows.at(i).subspan(1)) {
      if (static_cast<size_t>(id) >= length.size()) continue;
      int64_t& known = length[static_cast<size_t>(id)];
      if (known < 0) {
        known = static_cast<int64_t>(tokenizer.Decode({id}).size());
      }
      bytes += known;
    }
  }
  return bytes;
}

int64_t CappedWindows(const learn::TokenWindows& windows,
                      int64_t max_tokens) {
  if (max_tokens <= 0) return windows.count();
  return std::min(windows.count(),
                  std::max<int64_t>(1, max_tokens / windows.window()));
}

absl::StatusOr<Score> ScoreWindows(const model::Scorer& scorer,
                                   const learn::TokenWindows& windows,
                                   const ScoreOptions& options) {
  const int64_t window = windows.window();
  const int64_t count = CappedWindows(windows, options.max_tokens);
  if (window < 2 || count == 0) {
    return NothingToScore(windows.tokens(), window);
  }
  std::vector<std::span<const int32_t>> spans;
  for (int64_t i = 0; i < count; ++i) spans.push_back(windows.at(i));
  return ScoreSpans(scorer, spans, window, options);
}

absl::StatusOr<Score> ScoreWindows(const model::Decoder& decoder,
                                   const learn::TokenWindows& windows,
                                   const ScoreOptions& options) {
  return ScoreWindows(model::DecoderScorer(decoder, options.allowed), windows,
                      options);
}

DocumentWindows::DocumentWindows(const model::Tokenizer& tokenizer,
                                 const std::vector<std::string>& documents,
                                 int64_t window)
    : window_(window) {
  for (const std::string& document : documents) {
    ids_.push_back(tokenizer.Encode(document));
    const std::span<const int32_t> ids(ids_.back());
    const size_t most = static_cast<size_t>(std::max<int64_t>(window, 2));
    for (size_t at = 0; at + 1 < ids.size(); at += most) {
      windows_.push_back(ids.subspan(at, std::min(most, ids.size() - at)));
      tokens_ += static_cast<int64_t>(windows_.back().size());
    }
  }
}

absl::StatusOr<Score> ScoreDocuments(const model::Scorer& scorer,
                                     const DocumentWindows& windows,
                                     const ScoreOptions& options) {
  if (windows.window() < 2 || windows.windows().empty()) {
    return NothingToScore(windows.tokens(), windows.window());
  }
  return ScoreSpans(scorer, windows.windows(), windows.window(), options);
}

}  // namespace motet::measure
