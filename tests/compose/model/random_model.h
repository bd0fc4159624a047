// SPDX-License-Identifier: Apache-2.0
// Tiny random decoders for the tests of this folder: odd shapes, experts of
// unequal FFN width, anchored parameters computed as METHODS 11 says from the
// model's own router inputs, so that selection and gate have real choices.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "compose/model/decoder.h"

namespace motet::model {

// Numbers that tensors view.
class Storage {
 public:
  math::Tensor Normal(const math::Shape& shape, double scale, double mean,
                      std::mt19937_64& random);
  math::Tensor Copy(const std::vector<float>& values, const math::Shape& shape);
  // Rows `which` of t, f32 or bf16.
  math::Tensor Rows(const math::Tensor& t, const std::vector<int>& which);
  math::Tensor ToBf16(const math::Tensor& t);

 private:
  void* Allocate(int64_t bytes);
  std::vector<std::unique_ptr<char[]>> blocks_;
};

struct RandomModel {
  ModelConfig config;
  ModelWeights weights;
  Router top_k, anchored;
  std::shared_ptr<Storage> storage = std::make_shared<Storage>();

  // Tokens mostly of a subject's own part of the vocabulary; the subject (0
  // to 4) changes every kPiece tokens, so that every expert is wanted
  // somewhere.
  static constexpr int64_t kPiece = 10;
  static int SubjectAt(uint64_t seed, int64_t position);
  static std::vector<int32_t> Text(const ModelConfig& config, uint64_t seed,
                                   int64_t tokens);
};

// experts: with the base. bf16: matrices are stored so. large: wide enough
// for kernels to split their work over threads and tiles. attention: what of
// it the experts have for themselves.
RandomModel MakeRandomModel(
    Block block, int64_t experts, bool bf16, uint64_t seed, bool large = false,
    AttentionExperts attention = AttentionExperts::kNone);
// The model built from these experts alone (ascending, the base first): their
// FFNs, attention, router rows and anchored parameters, copied.
RandomModel BuildFrom(const RandomModel& model,
                      const std::vector<int>& experts);
// The base alone without a router.
RandomModel Dense(const RandomModel& model);

}  // namespace motet::model
