// SPDX-License-Identifier: Apache-2.0
#include "gtest/gtest.h"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {
namespace {

TEST(Fuzz, Manifest) {
  const Corpus corpus = ManifestCorpus();
  // The second seed is a base without its files: read, but not in order.
  EXPECT_TRUE(Manifest(corpus.seeds[0]));
  EXPECT_GT(RunMutated(corpus, 10000, 4, Manifest), 10);
}

}  // namespace
}  // namespace motet::fuzz
