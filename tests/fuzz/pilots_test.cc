// SPDX-License-Identifier: Apache-2.0
#include "gtest/gtest.h"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {
namespace {

void Fuzz(const Corpus& corpus, int64_t executions, uint64_t seed,
          bool (*target)(const std::string&)) {
  for (const std::string& s : corpus.seeds) EXPECT_TRUE(target(s)) << s;
  EXPECT_GT(RunMutated(corpus, executions, seed, target), 10);
}

TEST(Fuzz, Pilots) { Fuzz(PilotsCorpus(), 10000, 8, Pilots); }
TEST(Fuzz, AdapterConfig) {
  Fuzz(AdapterConfigCorpus(), 20000, 9, AdapterConfig);
}

}  // namespace
}  // namespace motet::fuzz
