// SPDX-License-Identifier: Apache-2.0
// How well a model predicts text. Documents are cut in windows, one by one or
// joined by the separator; every window is scored from its second token, so a
// token is never predicted from nothing and never from another window.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/corpus.h"
#include "compose/math/exec.h"
#include "compose/model/decoder.h"
#include "compose/model/scorer.h"

namespace motet::measure {

struct Score {
  double nll = 0;      // sum of -ln p over the scored tokens
  int64_t tokens = 0;  // scored
  double Perplexity() const;
  //   nll / (ln 2 * bytes)      bytes: of ScoredBytes over the same windows
  double BitsPerByte(int64_t bytes) const;
};
struct ScoreOptions {
  math::ExpertMask allowed = ~math::ExpertMask{0};  // of a decoder
  int64_t max_tokens = 0;    // of text, whole windows; 0 = all
  int64_t batch_rows = 1024;  // about this many tokens at once; the score does
                              // not depend on it
  std::function<void(int64_t tokens)> progress;  // text tokens just done
  math::Product product = math::Product::kExact;
};

// InvalidArgument when a tokenizer makes ids that the model does not have.
absl::Status CheckIds(std::span<const int32_t> ids, int64_t vocabulary);

// Windows that a cap leaves: at least one, if there is one.
int64_t CappedWindows(const learn::TokenWindows& windows, int64_t max_tokens);

// The UTF-8 bytes of the text that the scored tokens stand for, so that models
// with other tokenizers compare. A window's first token is not scored: its
// bytes do not count. Special tokens (separators between documents) are
// scored, and stand for no byte.
int64_t ScoredBytes(const model::Tokenizer& tokenizer,
                    const learn::TokenWindows& windows, int64_t max_tokens);

//   nll = - sum_t ln softmax(logits_{t-1})[id_t],  t = 1 .. window - 1
// Product::kExact: a window's score is the same in whatever batch.
absl::StatusOr<Score> ScoreWindows(const model::Scorer& scorer,
                                   const learn::TokenWindows& windows,
                                   const ScoreOptions& options = {});
// The same of a decoder under options.allowed.
absl::StatusOr<Score> ScoreWindows(const model::Decoder& decoder,
                                   const learn::TokenWindows& windows,
                                   const ScoreOptions& options = {});

// Each document by itself, in consecutive windows; the last one of a document
// is as long as what is left, and one of a single token scores nothing. No
// token is added that the tokenizer does not add.
class DocumentWindows {
 public:
  DocumentWindows(const model::Tokenizer& tokenizer,
                  const std::vector<std::string>& documents, int64_t window);
  const std::vector<std::span<const int32_t>>& windows() const {
    return windows_;
  }
  int64_t window() const { return window_; }
  int64_t tokens() const { return tokens_; }  // in windows that score

 private:
  std::vector<std::vector<int32_t>> ids_;  // of a document
  std::vector<std::span<const int32_t>> windows_;
  int64_t window_, tokens_ = 0;
};
// options.max_tokens does not apply.
absl::StatusOr<Score> ScoreDocuments(const model::Scorer& scorer,
                                     const DocumentWindows& windows,
                                     const ScoreOptions& options = {});

}  // namespace motet::measure
