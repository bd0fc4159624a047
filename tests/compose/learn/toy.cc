// SPDX-License-Identifier: Apache-2.0
#include "tests/compose/learn/toy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>

#include "compose/learn/hash.h"

namespace motet::learn::toy {

std::vector<int32_t> Letters::Encode(
    absl::string_view text, const model::EncodeOptions& options) const {
  std::vector<int32_t> ids;
  for (char c : text) ids.push_back(c >= 'a' && c <= 'z' ? c - 'a' : 26);
  return ids;
}

std::string Letters::TokenBytes(int32_t id) const {
  return id >= 0 && id < 26 ? std::string(1, static_cast<char>('a' + id)) : " ";
}

std::string Letters::Decode(const std::vector<int32_t>& ids, bool) const {
  std::string text;
  for (int32_t id : ids) text += TokenBytes(id);
  return text;
}

int32_t Letters::IdOf(absl::string_view token) const {
  return token.size() == 1 ? Encode(token)[0] : -1;
}

model::ModelConfig Config(model::Block block) {
  model::ModelConfig config;
  config.block = block;
  if (block == model::Block::kPreNorm) {
    config.qk_norm = model::QkNorm::kNone;
  }
  config.vocabulary = 27;
  config.width = 16;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 4;
  config.ffn_width = 12;
  config.max_positions = 64;
  config.rope_theta = 1e4;
  return config;
}

OwnedModel Model(const model::ModelConfig& config, uint64_t seed) {
  OwnedModel model = InitialModel(config, seed);
  uint64_t n = 0;
  VisitWeights(config, model.weights,
               [&](const std::string&, const math::Shape& shape,
                   math::Tensor& tensor) {
                 const bool vector = shape.rank < 2;
                 const double deviation =
                     vector ? 0.2 : 1 / std::sqrt(double(tensor.cols()));
                 for (int64_t i = 0; i < tensor.size(); ++i) {
                   tensor.f32()[i] = static_cast<float>(
                       (vector ? 1 : 0) + deviation * Normal(seed, n++));
                 }
               });
  return model;
}

std::unique_ptr<package::LoadedModel> Loaded(const OwnedModel& model) {
  auto loaded = std::make_unique<package::LoadedModel>();
  loaded->config = model.config;
  loaded->weights = model.weights;
  return loaded;
}

std::vector<std::string> Documents(int count, uint64_t seed) {
  std::vector<std::string> words;
  for (uint64_t w = 0; w < 12; ++w) {
    std::string word;
    const uint64_t letters = 2 + Mix(seed * 1000 + w) % 5;
    for (uint64_t i = 0; i < letters; ++i) {
      word += static_cast<char>('a' + Mix(seed * 7919 + w * 31 + i) % 26);
    }
    words.push_back(word);
  }
  std::vector<std::string> documents;
  for (int d = 0; d < count; ++d) {
    std::string text;
    for (uint64_t i = 0; i < 40; ++i) {
      text += words[Mix(seed + 100 * static_cast<uint64_t>(d) + i) %
                    words.size()];
      text += ' ';
    }
    documents.push_back(text);
  }
  return documents;
}

TokenWindows Windows(int documents, uint64_t seed, int64_t window) {
  return TokenWindows(Letters(), Documents(documents, seed), 26, window);
}

std::vector<float> Bits(const OwnedModel& model) {
  std::vector<float> bits;
  model::ModelWeights views = model.weights;
  VisitWeights(model.config, views,
               [&](const std::string&, const math::Shape&, math::Tensor& t) {
                 bits.insert(bits.end(), t.f32(), t.f32() + t.size());
               });
  return bits;
}

std::vector<float> Bits(const OwnerExpert& expert) {
  std::vector<float> bits;
  for (const OwnerExpert::Layer& layer : expert.layers) {
    for (const math::Tensor& t :
         {layer.ffn.gate, layer.ffn.up, layer.ffn.down, layer.row,
          layer.bias}) {
      bits.insert(bits.end(), t.f32(), t.f32() + t.size());
    }
  }
  return bits;
}

std::string FreshPath(const std::string& name) {
  static std::atomic<int> counter{0};
  const std::string path = testing::TempDir() + "/motet_" +
                           std::to_string(getpid()) + "_" +
                           std::to_string(counter++) + "_" + name;
  std::filesystem::remove_all(path);
  return path;
}

}  // namespace motet::learn::toy
