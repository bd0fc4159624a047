// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/player.h"

#include <chrono>
#include <cstdio>
#include <iostream>
#include <utility>

#include "nlohmann/json.hpp"

namespace motet::bench {
namespace {

// The one place that knows which product a row runs on.
constexpr Arithmetic kArithmetics[] = {
    {"f32", math::Product::kExact, math::Product::kLibrary, false},
    {"bf16", math::Product::kBf16, math::Product::kBf16, true},
};

}  // namespace

void Player::Add(const std::string& task, Round round) {
  tasks_[task] = std::move(round);
}

int Player::Run() {
  const int threads = math::Threads();
  std::string line;
  while (std::getline(std::cin, line)) {
    const size_t at = line.find('@');
    const auto task = tasks_.find(line.substr(0, at));
    nlohmann::json answer;
    if (task == tasks_.end()) {
      answer["error"] = "[player] got task " + line;
    } else {
      math::SetThreads(at == std::string::npos
                           ? threads
                           : std::stoi(line.substr(at + 1)));
      const absl::StatusOr<double> value = task->second();
      if (value.ok()) {
        answer["value"] = *value;
      } else {
        answer["error"] = std::string(value.status().message());
      }
    }
    std::printf("%s\n", answer.dump().c_str());
    std::fflush(stdout);
  }
  return 0;
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() -
                                       start)
      .count();
}

const Arithmetic* FindArithmetic(const std::string& name) {
  for (const Arithmetic& arithmetic : kArithmetics) {
    if (name != arithmetic.name) continue;
    if (!arithmetic.bf16 || math::HasBf16()) return &arithmetic;
    std::fprintf(stderr, "[bench] got --arithmetic %s, want a processor (and "
                 "a MOTET_CPU) that has it\n", name.c_str());
    return nullptr;
  }
  std::fprintf(stderr, "[bench] got --arithmetic %s, want one of:",
               name.c_str());
  for (const Arithmetic& arithmetic : kArithmetics) {
    std::fprintf(stderr, " %s", arithmetic.name);
  }
  std::fprintf(stderr, "\n");
  return nullptr;
}

std::string Option(int argc, char** argv, const std::string& name,
                   const std::string& otherwise) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (argv[i] == "--" + name) return argv[i + 1];
  }
  return otherwise;
}

}  // namespace motet::bench
