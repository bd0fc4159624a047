// SPDX-License-Identifier: Apache-2.0
// Texts into vectors. Documents go through the frozen base, always; a query
// goes through a QueryEncoder, which chooses the base or the base with an
// adapter for each. So one index serves every choice.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/math/operators.h"
#include "compose/model/encoder.h"
#include "compose/model/tokenizer.h"
#include "compose/package/encoder_folder.h"
#include "proto/digest.h"

namespace motet::retrieve {

struct Vectors {
  std::vector<float> values;  // [N,C]
  int64_t cut = 0;            // texts beyond the encoder's limit of tokens
  std::vector<int32_t> tokens;  // of each text, before the cut
};
// How much is done, 0 to 1; false: stop.
using Fraction = std::function<bool(double)>;

// A base encoder with its tokenizer, ready to run. Thread-safe.
class TextEncoder {
 public:
  // A folder that package::LoadEncoder reads, with its tokenizer.json.
  static absl::StatusOr<std::unique_ptr<TextEncoder>> Load(
      const std::string& folder, math::Product product);

  // One vector a text, of whatever length: its end is cut off and counted.
  // lora: null, the base alone. A text's vector does not depend on the others.
  // progress: asked every 64 texts; Cancelled when it says to stop.
  absl::StatusOr<Vectors> Encode(std::span<const std::string> texts,
                                 const model::Lora* lora = nullptr,
                                 const Fraction& progress = nullptr) const;

  // The ids of a text, as Encode reads it; *all: how many it has before its
  // end is cut off.
  std::vector<int32_t> Tokenize(const std::string& text, int64_t* all) const;

  // What decides a document's vector: every tensor, as f32, its name and
  // shape, the sizes, normalisation, the limit of tokens, and tokenizer.json.
  const proto::Digest& digest() const { return digest_; }
  const model::Encoder& encoder() const { return encoder_; }
  const model::EncoderConfig& config() const { return encoder_.config(); }
  math::Product product() const { return product_; }
  int64_t width() const { return encoder_.config().width; }
  int64_t max_tokens() const { return loaded_->max_tokens; }
  const std::string& folder() const { return folder_; }

 private:
  TextEncoder(std::string folder,
              std::unique_ptr<package::LoadedEncoder> loaded,
              model::Encoder encoder,
              std::unique_ptr<model::Tokenizer> tokenizer,
              math::Product product, const proto::Digest& digest);

  std::string folder_;
  std::unique_ptr<package::LoadedEncoder> loaded_;
  model::Encoder encoder_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  math::Product product_;
  proto::Digest digest_;
};

// Queries into vectors, each by the encoder that this chooses for it.
class QueryEncoder {
 public:
  virtual ~QueryEncoder() = default;
  struct Queries {
    Vectors vectors;
    // Which encoder answered each: an expert's name, "" for the base.
    std::vector<std::string> experts;
  };
  virtual absl::StatusOr<Queries> Encode(
      std::span<const std::string> queries) const = 0;
  virtual const TextEncoder& base() const = 0;
};

// The same choice for every query: the base, or it with one adapter.
class FixedQueryEncoder : public QueryEncoder {
 public:
  // base and lora must outlive this; lora null: the base alone, named "".
  explicit FixedQueryEncoder(const TextEncoder* base,
                             const model::Lora* lora = nullptr,
                             std::string expert = "")
      : base_(base), lora_(lora), expert_(std::move(expert)) {}
  absl::StatusOr<Queries> Encode(
      std::span<const std::string> queries) const override;
  const TextEncoder& base() const override { return *base_; }

 private:
  const TextEncoder* base_;
  const model::Lora* lora_;
  std::string expert_;
};

}  // namespace motet::retrieve
