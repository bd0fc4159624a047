// SPDX-License-Identifier: Apache-2.0
// What the tiny model directories of tests are made with: random tensors in a
// safetensors file and special tokens, written without the engine's own
// writers. Header-only, as its users are.
#pragma once

#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace motet::testing {

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline nlohmann::json SpecialToken(const std::string& content, size_t id) {
  return {{"id", id},        {"content", content}, {"single_word", false},
          {"lstrip", false}, {"rstrip", false},    {"normalized", false},
          {"special", true}};
}

// By name and shape, F32: those that scale (norms) near one, the rest about
// zero.
inline void WriteRandomTensors(
    const std::string& path,
    const std::map<std::string, std::vector<int64_t>>& tensors, uint64_t seed,
    const std::function<bool(const std::string&)>& scales) {
  std::mt19937_64 random(seed);
  std::string data;
  nlohmann::json header = nlohmann::json::object();
  for (const auto& [name, shape] : tensors) {
    int64_t size = 1;
    for (const int64_t n : shape) size *= n;
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) {
      const double uniform =
          static_cast<double>(random() >> 11) / 9007199254740992.0;
      value = static_cast<float>(scales(name) ? 0.9 + 0.2 * uniform
                                              : (uniform - 0.5) * 0.6);
    }
    header[name] = {{"dtype", "F32"},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + size * 4}}};
    data.append(reinterpret_cast<const char*>(values.data()), size * 4);
  }
  std::string head = header.dump();
  head.resize((head.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) {
    length[i] = static_cast<char>(head.size() >> (8 * i));
  }
  WriteText(path, length + head + data);
}

}  // namespace motet::testing
