// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/retrieval_exclusion.h"

#include <bit>
#include <cmath>
#include <fstream>
#include <set>

#include "compose/retrieve/index_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/tiny_retrieval.h"

namespace motet::measure {
namespace {

using math::ExpertMask;
using retrieve::TinyRetrieval;
using ::testing::HasSubstr;

class RetrievalProofTest : public ::testing::Test {
 protected:
  RetrievalProofTest()
      : tiny_(::testing::TempDir() + "retrieval_proof_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::ofstream corpus(tiny_.Path("corpus.jsonl"));
    for (int e = 0; e < TinyRetrieval::kExperts; ++e) {
      for (int n = 0; n < 8; ++n) {
        corpus << "{\"_id\": \"" << e << "." << n << "\", \"text\": \""
               << TinyRetrieval::Text(e, 300 + n) << "\"}\n";
      }
      for (const std::string& text : TinyRetrieval::Texts(e, 200, 4)) {
        queries_.push_back(text);
      }
    }
    corpus.close();
    const auto writer = retrieve::IndexWriter::Create(
        tiny_.Path("index"),
        retrieve::HeaderFor(tiny_.encoder(), retrieve::IndexKind::kAuto));
    EXPECT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(retrieve::AddCorpus(**writer, tiny_.encoder(),
                                    tiny_.Path("corpus.jsonl"), {})
                    .ok());
    index_ = *retrieve::Index::Open(tiny_.Path("index"));
  }
  v1::CompositionLock LockOf(const std::vector<int>& which) const {
    const auto experts = tiny_.Experts(which);
    return assemble::MakePlan(TinyRetrieval::RecipeFor(experts), tiny_.base(),
                              experts, tiny_.PilotsOf(which))
        .lock;
  }
  absl::StatusOr<std::vector<RetrievalProof>> Prove(
      const v1::CompositionLock& lock, const std::vector<ExpertMask>& without) {
    return ProveRetrievalExclusion(lock, tiny_.FolderOf(), without, *index_,
                                   queries_, math::Product::kExact);
  }
  TinyRetrieval tiny_;
  std::unique_ptr<retrieve::Index> index_;
  std::vector<std::string> queries_;
};

TEST_F(RetrievalProofTest, EverySetIsSilentWhenLeftOut) {
  const v1::CompositionLock lock = LockOf({0, 1, 2, 3});
  const std::vector<ExpertMask> sets = SetsToLeaveOut(lock);
  ASSERT_EQ(sets.size(), 15u);
  const auto proofs = Prove(lock, sets);
  ASSERT_TRUE(proofs.ok()) << proofs.status();
  ASSERT_EQ(proofs->size(), sets.size());
  std::set<std::string> seen;
  for (size_t i = 0; i < sets.size(); ++i) {
    const RetrievalProof& proof = (*proofs)[i];
    EXPECT_TRUE(proof.equal()) << i;
    EXPECT_EQ(proof.without.size(),
              static_cast<size_t>(std::popcount(static_cast<uint64_t>(sets[i]))));
    // A recipe of the others alone, planned and loaded by itself.
    std::vector<int> others;
    for (int e = 0; e < TinyRetrieval::kExperts; ++e) {
      if ((sets[i] >> (e + 1) & 1) == 0) others.push_back(e);
    }
    const auto alone = retrieve::Retriever::Load(
        LockOf(others), tiny_.FolderOf(), math::Product::kExact);
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ(*RetrievalSha256(*(*alone)->QueriesFor((*alone)->All()), *index_,
                               queries_),
              proof.excluded_sha256);
    seen.insert(proof.excluded_sha256);
  }
  // The last leaves out everybody: the base, which is nobody's.
  EXPECT_EQ(*RetrievalSha256(retrieve::FixedQueryEncoder(&tiny_.encoder()),
                             *index_, queries_),
            proofs->back().excluded_sha256);
  // Not empty: sets differ among each other, and from all experts.
  EXPECT_GE(seen.size(), 6u);
  EXPECT_NE(proofs->back().excluded_sha256, proofs->back().included_sha256);
}

// What a trace would be: a bit of a vector, an expert's name, one document
// more or in another place.
class Leaky : public retrieve::QueryEncoder {
 public:
  Leaky(const retrieve::TextEncoder& base, bool vector, bool name)
      : fixed_(&base), vector_(vector), name_(name) {}
  absl::StatusOr<Queries> Encode(
      std::span<const std::string> queries) const override {
    MOTET_ASSIGN_OR_RETURN(Queries out, fixed_.Encode(queries));
    if (vector_) {
      float& x = out.vectors.values.back();
      x = std::nextafter(x, 2.0f);
    }
    if (name_) out.experts.back() = "left.example/out@1.0.0";
    return out;
  }
  const retrieve::TextEncoder& base() const override { return fixed_.base(); }

 private:
  retrieve::FixedQueryEncoder fixed_;
  bool vector_, name_;
};

TEST_F(RetrievalProofTest, ATraceIsNoticed) {
  const auto digest = [&](bool vector, bool name) {
    return *RetrievalSha256(Leaky(tiny_.encoder(), vector, name), *index_,
                            queries_);
  };
  const std::string clean = digest(false, false);
  EXPECT_NE(digest(true, false), clean);
  EXPECT_NE(digest(false, true), clean);
  RetrievalProof proof;
  proof.excluded_sha256 = clean;
  proof.never_composed_sha256 = digest(true, false);
  EXPECT_FALSE(proof.equal());

  // The same vectors over an index that has lost its first document.
  const auto writer = retrieve::IndexWriter::Open(tiny_.Path("index"));
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto first = index_->Get(0);
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE((*writer)->Remove(std::vector<std::string>{first->id}).ok());
  index_ = *retrieve::Index::Open(tiny_.Path("index"));
  EXPECT_EQ(index_->documents(), 31);
  EXPECT_NE(digest(false, false), clean);
}

TEST_F(RetrievalProofTest, ManyExpertsAreLeftOutOwnerByOwner) {
  v1::CompositionLock lock;
  for (const char* id : {"a.example/x@1.0.0", "b.example/x@1.0.0",
                         "a.example/y@1.0.0", "c.example/x@1.0.0",
                         "d.example/x@1.0.0"}) {
    lock.add_experts()->set_id(id);
  }
  EXPECT_THAT(SetsToLeaveOut(lock),
              ::testing::ElementsAre(ExpertMask{0b001010}, ExpertMask{0b000100},
                                     ExpertMask{0b010000},
                                     ExpertMask{0b100000}));
  lock.mutable_experts()->DeleteSubrange(2, 3);
  EXPECT_THAT(SetsToLeaveOut(lock), ::testing::ElementsAre(2, 4, 6));
}

TEST_F(RetrievalProofTest, WhatCannotBeProvedIsSaid) {
  const v1::CompositionLock lock = LockOf({0, 1});
  for (const ExpertMask set : {ExpertMask{0}, ExpertMask{1}, ExpertMask{8}}) {
    EXPECT_THAT(Prove(lock, {set}).status().message(),
                HasSubstr("want experts 1 to 2"))
        << static_cast<int>(set);
  }
  queries_.clear();
  EXPECT_THAT(Prove(lock, {2}).status().message(), HasSubstr("no query"));
}

}  // namespace
}  // namespace motet::measure
