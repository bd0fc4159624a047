// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/mutate.h"

#include <stdlib.h>

#include <algorithm>

namespace motet::fuzz {
namespace {

constexpr size_t kMaxInput = 64 << 10;

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t state) : state_(state) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  size_t Below(size_t n) { return n == 0 ? 0 : Next() % n; }

 private:
  uint64_t state_;
};

const char* const kNumbers[] = {"0", "1", "-1", "2", "4", "7", "255", "65536",
                                "2147483647", "2147483648", "4294967296",
                                "9223372036854775807", "9223372036854775808",
                                "18446744073709551615",
                                "18446744073709551616", "1e308", "1e999",
                                "0.5", "-0", "null", "true", "\"\"", "[]",
                                "{}"};

// Replaces a run of digits by a number that parsers trip over.
void ReplaceNumber(std::string& text, Random& random) {
  const size_t start = random.Below(text.size());
  const auto digit = [&](size_t i) {
    return text[i] >= '0' && text[i] <= '9';
  };
  size_t begin = start;
  while (begin < text.size() && !digit(begin)) ++begin;
  size_t end = begin;
  while (end < text.size() && digit(end)) ++end;
  if (begin < end) {
    text.replace(begin, end - begin,
                 kNumbers[random.Below(std::size(kNumbers))]);
  }
}

void Mutate(std::string& text, const Corpus& corpus, Random& random) {
  const size_t at = random.Below(text.size() + 1);
  const size_t n = random.Below(std::min<size_t>(text.size() - at + 1, 64));
  switch (random.Below(10)) {
    case 0:
      if (at < text.size()) text[at] ^= 1 << random.Below(8);
      break;
    case 1:
      if (at < text.size()) text[at] = static_cast<char>(random.Next());
      break;
    case 2:
      text.erase(at, n);
      break;
    case 3:
      text.insert(at, text.substr(at, n));
      break;
    case 4:
      text.insert(random.Below(text.size() + 1), text.substr(at, n));
      break;
    case 5:
    case 6:
      if (!corpus.words.empty()) {
        text.insert(at, corpus.words[random.Below(corpus.words.size())]);
      }
      break;
    case 7:
    case 8:
      if (!text.empty()) ReplaceNumber(text, random);
      break;
    default: {
      const std::string& other =
          corpus.seeds[random.Below(corpus.seeds.size())];
      const size_t from = random.Below(other.size() + 1);
      if (random.Below(4) == 0) {
        text = text.substr(0, at) + other.substr(from);
      } else {
        text.insert(at, other.substr(from, random.Below(200)));
      }
    }
  }
  if (text.size() > kMaxInput) text.resize(kMaxInput);
}

}  // namespace

int64_t RunMutated(const Corpus& corpus, int64_t executions, uint64_t seed,
            const std::function<bool(const std::string&)>& target) {
  if (const char* runs = getenv("MOTET_FUZZ_RUNS")) executions = atoll(runs);
  int64_t taken = 0;
  Random random(seed);
  for (int64_t i = 0; i < executions; ++i) {
    std::string text = corpus.seeds[random.Below(corpus.seeds.size())];
    // Few changes reach deep, many reach wide.
    const size_t changes = 1 + random.Below(1 + random.Below(12));
    for (size_t c = 0; c < changes; ++c) Mutate(text, corpus, random);
    if (corpus.repair != nullptr && random.Below(2) == 0) corpus.repair(text);
    taken += target(text);
  }
  return taken;
}

}  // namespace motet::fuzz
