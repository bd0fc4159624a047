// SPDX-License-Identifier: Apache-2.0
// Byte-level BPE and WordPiece from a tokenizer.json, and a trainer of
// both, which writes a tokenizer.json that the stock `tokenizers` library
// loads. Text in, ids out, and back. Input is any bytes: invalid UTF-8
// survives a round trip through BPE, byte by byte; to WordPiece each invalid
// byte is U+FFFD. What is read and what is refused: docs/tokenizers.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::model {

struct EncodeOptions {
  // What the tokenizer's post_processor adds around a text ([CLS] and [SEP],
  // <|begin_of_text|>); most decoders add nothing. False for text that goes
  // on, or that spells such tokens itself.
  bool add_special_tokens = true;
  // The end of a longer text is cut off, what is added around it is kept.
  // 0 = no limit; otherwise at least the number of added tokens.
  int64_t max_tokens = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // From the text of a tokenizer.json; a part that we do not know is an error
  // which names it.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(
      const std::string& json);
  virtual std::vector<int32_t> Encode(
      absl::string_view text, const EncodeOptions& options = {}) const = 0;
  // BPE: the bytes of the tokens one after another. WordPiece: words joined
  // by spaces. Ids outside the vocabulary give nothing. Special tokens are
  // left out unless asked for.
  virtual std::string Decode(const std::vector<int32_t>& ids,
                             bool special = false) const = 0;
  virtual std::string TokenBytes(int32_t id) const = 0;
  virtual int32_t IdOf(absl::string_view token) const = 0;  // -1 = none
  virtual int64_t vocabulary() const = 0;
};

struct TokenizerTrainOptions {
  // WordPiece, as BERT's: lower-cased words without accents, "##" before what
  // continues a word, [CLS] and [SEP] around a text; the specials are BERT's
  // five, as 0 to 4. Characters beyond the 1000 most frequent are [UNK].
  bool wordpiece = false;
  int64_t vocabulary = 4096;  // with specials and the 256 bytes
  std::vector<std::string> specials = {"<|endoftext|>", "<|padding|>"};
  std::function<bool(double fraction)> progress;  // false stops
};
// The text of a tokenizer.json. Deterministic: ties go to the lower pair.
absl::StatusOr<std::string> TrainTokenizer(
    const std::vector<std::string>& documents,
    const TokenizerTrainOptions& options);

}  // namespace motet::model
