// SPDX-License-Identifier: Apache-2.0
#include "gtest/gtest.h"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {
namespace {

// Seeds must be taken, and so must some of the mutated inputs, or nothing
// behind the first check would be tried.
void Fuzz(const Corpus& corpus, int64_t executions, uint64_t seed,
          bool (*target)(const std::string&)) {
  for (const std::string& s : corpus.seeds) EXPECT_TRUE(target(s)) << s;
  EXPECT_GT(RunMutated(corpus, executions, seed, target), 10);
}

TEST(Fuzz, Safetensors) { Fuzz(SafetensorsCorpus(), 50000, 1, Safetensors); }
TEST(Fuzz, Config) { Fuzz(ConfigCorpus(), 20000, 2, Config); }
TEST(Fuzz, Tokenizer) { Fuzz(TokenizerCorpus(), 10000, 3, Tokenizer); }
TEST(Fuzz, Pattern) { Fuzz(PatternCorpus(), 20000, 4, Pattern); }

}  // namespace
}  // namespace motet::fuzz
