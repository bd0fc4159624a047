// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/exclusion.h"

#include "gtest/gtest.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::measure {
namespace {

using assemble::TinyFederation;

class ProofTest : public testing::TestWithParam<std::string> {};

TEST_P(ProofTest, EveryExpertIsSilentWhenExcluded) {
  const TinyFederation federation;
  const v1::CompositionLock lock = federation.Lock(GetParam());
  const auto ids = federation.Ids(150);
  const auto proofs =
      ProveExclusion(lock, federation.FolderOf(), {1, 2, 3, 4}, ids);
  ASSERT_TRUE(proofs.ok()) << proofs.status();
  ASSERT_EQ(proofs->size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const ExclusionProof& proof = (*proofs)[i];
    EXPECT_EQ(proof.expert, lock.experts(static_cast<int>(i)).id());
    EXPECT_TRUE(proof.equal()) << proof.expert;
    // The proof is not empty: with the expert the logits are others.
    EXPECT_NE(proof.excluded_sha256, proof.included_sha256) << proof.expert;
    EXPECT_EQ(proof.excluded_sha256.size(), 64u);
  }
  EXPECT_NE((*proofs)[0].excluded_sha256, (*proofs)[1].excluded_sha256);
}

INSTANTIATE_TEST_SUITE_P(Routers, ProofTest,
                         testing::Values("anchored", "topk"),
                         [](const auto& info) { return info.param; });

// A difference anywhere is a failure: the digests decide, not the text.
TEST(ProofErrorsTest, DifferencesAndBadInput) {
  ExclusionProof proof;
  proof.excluded_sha256 = proof.never_composed_sha256 =
      proof.excluded_chunked_sha256 = proof.never_composed_chunked_sha256 = "a";
  EXPECT_TRUE(proof.equal());
  proof.excluded_chunked_sha256 = "b";
  EXPECT_FALSE(proof.equal());

  const TinyFederation federation;
  const v1::CompositionLock lock = federation.Lock();
  EXPECT_FALSE(ProveExclusion(lock, federation.FolderOf(), {1}, {}).ok());
  EXPECT_FALSE(ProveExclusion(lock, federation.FolderOf(), {9},
                              federation.Ids(5))
                   .ok());
  EXPECT_FALSE(ProveExclusion(lock, federation.FolderOf(), {1},
                              federation.Ids(300))
                   .ok());
}

}  // namespace
}  // namespace motet::measure
