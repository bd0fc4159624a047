// SPDX-License-Identifier: Apache-2.0
// The exclusion guarantee of router_retriever: for every set of experts, lock,
// routing, vectors and results are, bit for bit, those of a composition that
// never had the others; and the index is the same whoever answers.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "compose/retrieve/index_writer.h"
#include "compose/retrieve/retriever.h"
#include "compose/retrieve/search.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/tiny_retrieval.h"

namespace motet::retrieve {
namespace {

using assemble::LoadOptions;
using ::testing::Each;
using ::testing::IsEmpty;

class RetrieverGuaranteeTest : public ::testing::Test {
 protected:
  RetrieverGuaranteeTest()
      : tiny_(::testing::TempDir() + "retriever_guarantee_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
  }
  v1::CompositionLock LockOf(const std::vector<int>& which,
                             const std::string& similarity = "dot",
                             const std::string& aggregate = "mean",
                             bool gate = false) const {
    const std::vector<assemble::Part> experts = tiny_.Experts(which);
    assemble::Recipe recipe = TinyRetrieval::RecipeFor(experts);
    recipe.retriever.similarity = similarity;
    recipe.retriever.aggregate = aggregate;
    recipe.retriever.gate = gate;
    const assemble::Plan plan = assemble::MakePlan(
        recipe, tiny_.base(), experts, tiny_.PilotsOf(which));
    EXPECT_THAT(plan.problems, IsEmpty());
    return plan.lock;
  }
  std::unique_ptr<Retriever> Load(const v1::CompositionLock& lock,
                                  const LoadOptions& options = {}) const {
    auto loaded =
        Retriever::Load(lock, tiny_.FolderOf(), math::Product::kExact, options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }
  // Expert positions of the whole composition, from 0.
  static std::vector<int> Members(int subset) {
    std::vector<int> which;
    for (int e = 0; e < TinyRetrieval::kExperts; ++e) {
      if (subset >> e & 1) which.push_back(e);
    }
    return which;
  }
  static LoadOptions Only(const std::vector<int>& which) {
    LoadOptions options;
    options.all = false;
    for (const int e : which) options.only.push_back(e + 1);
    return options;
  }
  static std::vector<std::string> Queries() {
    std::vector<std::string> queries;
    for (int e = 0; e < TinyRetrieval::kExperts; ++e) {
      for (const std::string& text : TinyRetrieval::Texts(e, 200, 4)) {
        queries.push_back(text);
      }
    }
    return queries;
  }
  // Of the documents by the base.
  std::unique_ptr<Index> MakeIndex() const {
    std::ofstream corpus(tiny_.Path("corpus.jsonl"));
    for (int e = 0; e < TinyRetrieval::kExperts; ++e) {
      for (int n = 0; n < 12; ++n) {
        corpus << "{\"_id\": \"" << e << "." << n << "\", \"text\": \""
               << TinyRetrieval::Text(e, 300 + n) << "\"}\n";
      }
    }
    corpus.close();
    auto writer = IndexWriter::Create(
        tiny_.Path("index"), HeaderFor(tiny_.encoder(), IndexKind::kAuto));
    EXPECT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(
        AddCorpus(**writer, tiny_.encoder(), tiny_.Path("corpus.jsonl"), {})
            .ok());
    auto index = Index::Open(tiny_.Path("index"));
    EXPECT_TRUE(index.ok()) << index.status();
    return *std::move(index);
  }
  TinyRetrieval tiny_;
};

TEST_F(RetrieverGuaranteeTest, EverySetIsTheCompositionOfItAlone) {
  const auto index = MakeIndex();
  const proto::Digest content = index->ContentDigest();
  const v1::CompositionLock all = LockOf({0, 1, 2, 3});
  const auto whole = Load(all);
  std::set<std::string> answered;
  std::set<std::vector<std::string>> routes;
  for (int subset = 0; subset < 16; ++subset) {
    const std::vector<int> which = Members(subset);
    const v1::CompositionLock lock = LockOf(which);
    const auto selected = assemble::SelectExperts(all, Only(which));
    ASSERT_TRUE(selected.ok());
    EXPECT_EQ(assemble::WriteLock(*selected), assemble::WriteLock(lock));

    const auto alone = Load(lock);
    const auto part = Load(all, Only(which));
    EXPECT_EQ(alone->lock_sha256, part->lock_sha256);
    // Bit 0 is the base's; the mask is of positions in the whole.
    const math::ExpertMask set =
        math::ExpertMask{1} | static_cast<math::ExpertMask>(subset) << 1;
    EXPECT_EQ(whole->PilotsFor(set), alone->PilotsFor(alone->All()));
    const auto narrowed = whole->QueriesFor(set);
    const auto own = alone->QueriesFor(alone->All());
    const auto of_part = part->QueriesFor(part->All());
    const auto got = narrowed->Encode(Queries());
    const auto want = own->Encode(Queries());
    ASSERT_TRUE(got.ok() && want.ok());
    EXPECT_EQ(got->experts, want->experts) << subset;
    EXPECT_EQ(got->vectors.values, want->vectors.values) << subset;
    EXPECT_EQ(of_part->Encode(Queries())->vectors.values, want->vectors.values);
    if (subset == 0) {
      EXPECT_THAT(got->experts, Each(""));
    }
    for (const std::string& id : got->experts) {
      if (id.empty()) continue;
      answered.insert(id);
      bool member = false;
      for (const int e : which) {
        member |= tiny_.experts()[e].manifest.id() == id;
      }
      EXPECT_TRUE(member) << id << " answered in set " << subset;
    }
    routes.insert(got->experts);
    for (const SearchMode mode : {SearchMode::kDense, SearchMode::kFusion}) {
      const SearchRequest request = {Queries(), mode, 7, {}};
      const auto found = Search(*index, narrowed.get(), request);
      const auto expected = Search(*index, own.get(), request);
      ASSERT_TRUE(found.ok() && expected.ok());
      EXPECT_EQ(found->rankings, expected->rankings) << subset;
      EXPECT_EQ(found->experts, expected->experts);
    }
    EXPECT_EQ(index->ContentDigest(), content);
    EXPECT_EQ((*Index::Open(tiny_.Path("index")))->ContentDigest(), content);
  }
  // Something was there to be left out.
  EXPECT_EQ(answered.size(), 4u);
  EXPECT_GE(routes.size(), 6u);
}

using Way = std::tuple<const char*, const char*, bool>;
class EveryWayOfRouting : public RetrieverGuaranteeTest,
                          public ::testing::WithParamInterface<Way> {};

TEST_P(EveryWayOfRouting, IsTheCompositionOfTheSetAlone) {
  const auto& [similarity, aggregate, gate] = GetParam();
  const auto whole = Load(LockOf({0, 1, 2, 3}, similarity, aggregate, gate));
  int64_t by_the_base = 0;
  for (const int subset : {3, 5, 11, 14}) {
    const auto alone =
        Load(LockOf(Members(subset), similarity, aggregate, gate));
    const auto got =
        whole->QueriesFor(1 | static_cast<math::ExpertMask>(subset << 1))
            ->Encode(Queries());
    const auto want = alone->QueriesFor(alone->All())->Encode(Queries());
    ASSERT_TRUE(got.ok() && want.ok());
    EXPECT_EQ(got->experts, want->experts);
    EXPECT_EQ(got->vectors.values, want->vectors.values);
    by_the_base += std::count(got->experts.begin(), got->experts.end(), "");
  }
  // A gate keeps queries of those who are left out from the others' experts.
  EXPECT_EQ(by_the_base > 0, gate);
}

INSTANTIATE_TEST_SUITE_P(
    Ways, EveryWayOfRouting,
    ::testing::Combine(::testing::Values("dot", "cosine"),
                       ::testing::Values("mean", "max", "weighted"),
                       ::testing::Bool()),
    [](const auto& info) {
      return absl::StrCat(std::get<0>(info.param), "_",
                          std::get<1>(info.param),
                          std::get<2>(info.param) ? "_gated" : "");
    });

TEST_F(RetrieverGuaranteeTest, AQueryDoesNotDependOnTheOthers) {
  const auto whole = Load(LockOf({0, 1, 2, 3}));
  const auto encoder = whole->QueriesFor(whole->All());
  const auto together = encoder->Encode(Queries());
  ASSERT_TRUE(together.ok());
  const auto width = static_cast<size_t>(whole->base().width());
  for (size_t q = 0; q < Queries().size(); ++q) {
    const auto alone = encoder->Encode(std::vector<std::string>{Queries()[q]});
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ(alone->experts[0], together->experts[q]);
    EXPECT_TRUE(std::equal(alone->vectors.values.begin(),
                           alone->vectors.values.end(),
                           together->vectors.values.begin() + q * width));
  }
}

// Not that its packages say nothing: nobody asks for them.
TEST_F(RetrieverGuaranteeTest, WhatIsLeftOutIsNotRead) {
  const v1::CompositionLock all = LockOf({0, 1, 2, 3});
  std::set<std::string> asked;
  const assemble::PackageFolder folder_of = [&](const std::string& sha256) {
    asked.insert(sha256);
    return tiny_.FolderOf()(sha256);
  };
  const auto loaded =
      Retriever::Load(all, folder_of, math::Product::kExact, Only({0, 3}));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(asked, (std::set<std::string>{tiny_.base().manifest_sha256,
                                          tiny_.experts()[0].manifest_sha256,
                                          tiny_.experts()[3].manifest_sha256,
                                          tiny_.pilots()[0].manifest_sha256}));
}

}  // namespace
}  // namespace motet::retrieve
