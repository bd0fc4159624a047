// SPDX-License-Identifier: Apache-2.0
// Byte-level BPE from a tokenizer.json, and its trainer, which writes a
// tokenizer.json that the stock `tokenizers` library loads. Text in, ids out,
// and back. Input is any bytes; invalid UTF-8 survives a round trip.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::model {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // From the text of a tokenizer.json; a part that we do not know is an error
  // which names it.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(
      const std::string& json);
  virtual std::vector<int32_t> Encode(absl::string_view text) const = 0;
  // The bytes of the tokens one after another; ids outside the vocabulary
  // give nothing. Special tokens are left out unless asked for.
  virtual std::string Decode(const std::vector<int32_t>& ids,
                             bool special = false) const = 0;
  virtual std::string TokenBytes(int32_t id) const = 0;
  virtual int32_t IdOf(absl::string_view token) const = 0;  // -1 = none
  virtual int64_t vocabulary() const = 0;
};

struct TokenizerTrainOptions {
  int64_t vocabulary = 4096;  // with specials and the 256 bytes
  std::vector<std::string> specials = {"<|endoftext|>", "<|padding|>"};
  std::function<bool(double fraction)> progress;  // false stops
};
// The text of a tokenizer.json. Deterministic: ties go to the lower pair.
absl::StatusOr<std::string> TrainTokenizer(
    const std::vector<std::string>& documents,
    const TokenizerTrainOptions& options);

}  // namespace motet::model
