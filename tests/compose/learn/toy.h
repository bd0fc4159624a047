// SPDX-License-Identifier: Apache-2.0
// Small things to train: a tokenizer of bytes, tiny models of both blocks, a
// text with structure. Everything is a function of a seed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compose/learn/corpus.h"
#include "compose/learn/trainer.h"
#include "compose/model/tokenizer.h"

namespace motet::learn::toy {

// One token a byte of a-z; every other byte is token 26, so V = 27 and the
// separator may be 26.
class Letters final : public model::Tokenizer {
 public:
  std::vector<int32_t> Encode(
      absl::string_view text,
      const model::EncodeOptions& options = {}) const override;
  std::string Decode(const std::vector<int32_t>& ids,
                     bool special) const override;
  std::string TokenBytes(int32_t id) const override;
  int32_t IdOf(absl::string_view token) const override;
  int64_t vocabulary() const override { return 27; }
};

// C 16, L 2, H 4, G 2, D 4, F 12, V 27.
model::ModelConfig Config(model::Block block);
// Weights spread well beyond InitialModel's, so that every part of the model
// matters to the loss.
OwnedModel Model(const model::ModelConfig& config, uint64_t seed);
// The model as it would come from a folder.
std::unique_ptr<package::LoadedModel> Loaded(const OwnedModel& model);

// `count` documents that repeat words of a small vocabulary.
std::vector<std::string> Documents(int count, uint64_t seed);
TokenWindows Windows(int documents, uint64_t seed, int64_t window);

// Every float of the model's or the expert's storage, one after another.
std::vector<float> Bits(const OwnedModel& model);
std::vector<float> Bits(const OwnerExpert& expert);

// A path for this test alone; nothing lies there.
std::string FreshPath(const std::string& name);

}  // namespace motet::learn::toy
