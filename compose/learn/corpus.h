// SPDX-License-Identifier: Apache-2.0
// Documents into token windows: read, de-duplicate, split by hash, tokenize,
// pack. Everything here is a function of the documents and the seed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/model/tokenizer.h"

namespace motet::learn {

// Lines {"text": "..."}; blank lines are passed over; a bad line is an error
// that names file and line. Files of any size are read line by line.
absl::StatusOr<std::vector<std::string>> ReadJsonl(const std::string& path);
absl::Status WriteJsonl(const std::string& path,
                        const std::vector<std::string>& documents);

struct Split {
  std::vector<std::string> train, test;
  int64_t duplicates = 0;  // left out: equal after white-space folding
  int64_t empty = 0;
};
// A document's side depends on its text alone (64-bit FNV-1a of the folded
// text mod 100 < test_percent: test), so a text can never be on both sides,
// in whatever corpus of the federation it turns up. Folding: runs of ASCII
// white space are one space, none at either end. The first of equal
// documents stays, as it was written.
Split DeduplicateAndSplit(const std::vector<std::string>& documents,
                          int test_percent = 10);

// Token windows. Documents are joined by the separator id (< 0: none) and cut
// in windows of `window` tokens, the rest dropped. A separator belongs to the
// document in front of it: it says that it has ended.
class TokenWindows {
 public:
  TokenWindows(const model::Tokenizer& tokenizer,
               const std::vector<std::string>& documents, int32_t separator,
               int64_t window);
  int64_t count() const;
  int64_t window() const { return window_; }
  std::span<const int32_t> at(int64_t i) const;
  // Window i in parts, none empty, that lie in one document each.
  std::vector<std::span<const int32_t>> documents(int64_t i) const;
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }

 private:
  std::vector<int32_t> ids_;
  std::vector<int64_t> starts_;  // of documents, ascending, in ids_
  int64_t window_;
};

// What stands between joined documents: the tokenizer's <|endoftext|>, or
// else the model's end of sequence (a chat model's is the end of a turn).
int32_t SeparatorOf(const model::Tokenizer& tokenizer, int32_t eos_id);

// Which window a training step reads: own and public windows in a seeded
// order without replacement, reshuffled every epoch. A pure function of
// (seed, step), so a resumed run reads what an unbroken one would have.
// The public share is kept over steps: after n picks floor(n * fraction) were
// public. A kind without windows is never picked. Steps count from 0.
class BatchPlan {
 public:
  BatchPlan(int64_t own_windows, int64_t public_windows, int64_t batch,
            double public_fraction, uint64_t seed);
  struct Pick {
    bool from_public;
    int64_t window;
  };
  std::vector<Pick> at(int64_t step) const;  // `batch` picks

 private:
  int64_t own_, public_, batch_;
  double public_fraction_;
  uint64_t seed_;
};

}  // namespace motet::learn
