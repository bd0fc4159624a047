// SPDX-License-Identifier: Apache-2.0
// Retrieval compositions by their locks: who answers, and what is refused.
#include "compose/retrieve/retriever.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "compose/assemble/plan_parts.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/tiny_retrieval.h"

namespace motet::retrieve {
namespace {

using assemble::LoadOptions;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class RetrieverTest : public ::testing::Test {
 protected:
  RetrieverTest()
      : tiny_(::testing::TempDir() + "retriever_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
  }
  v1::CompositionLock Lock(const std::vector<int>& which) const {
    return LockOf(tiny_.Experts(which), tiny_.PilotsOf(which));
  }
  v1::CompositionLock LockOf(const std::vector<assemble::Part>& experts,
                             const std::vector<assemble::Part>& pilots) const {
    assemble::Recipe recipe;
    recipe.name = "demo";
    recipe.method = "router_retriever";
    v1::CompositionLock lock = assemble::LockOf(recipe, tiny_.base(), experts);
    lock.set_exclusion("exact");
    v1::RetrieverLock& retriever = *lock.mutable_retriever();
    retriever.set_similarity("dot");
    retriever.set_aggregate("mean");
    for (const assemble::Part& part : pilots) {
      v1::LockedPilots& locked = *retriever.add_pilots();
      locked.set_id(part.manifest.id());
      locked.set_manifest_sha256(part.manifest_sha256);
      for (const v1::FileDigest& file : part.manifest.files()) {
        if (file.path() == "weights.safetensors") {
          locked.set_weights_sha256(file.sha256());
        }
      }
      locked.set_of(part.manifest.pilots().of());
    }
    return lock;
  }
  absl::StatusOr<std::unique_ptr<Retriever>> Load(
      const v1::CompositionLock& lock, const LoadOptions& options = {}) const {
    return Retriever::Load(lock, tiny_.FolderOf(), math::Product::kExact,
                           options);
  }
  std::string Refusal(const v1::CompositionLock& lock) const {
    const auto loaded = Load(lock);
    EXPECT_FALSE(loaded.ok());
    return std::string(loaded.status().message());
  }
  static QueryEncoder::Queries Ask(const Retriever& retriever,
                                   math::ExpertMask set,
                                   const std::vector<std::string>& queries) {
    const auto encoder = retriever.QueriesFor(set);
    auto answer = encoder->Encode(queries);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return *std::move(answer);
  }
  static std::vector<std::string> Queries() {
    std::vector<std::string> queries;
    for (int e = 0; e < TinyRetrieval::kExperts; ++e) {
      for (int n = 100; n < 103; ++n) {
        queries.push_back(TinyRetrieval::Text(e, n));
      }
    }
    return queries;
  }
  TinyRetrieval tiny_;
};

TEST_F(RetrieverTest, EachQueryGoesToAnExpertAndItsVectorIsThatExperts) {
  const auto loaded = Load(Lock({0, 1, 2, 3}));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Retriever& retriever = **loaded;
  EXPECT_EQ(retriever.name, "demo");
  ASSERT_THAT(retriever.experts, SizeIs(5));
  EXPECT_TRUE(retriever.experts[0].always);
  EXPECT_EQ(retriever.PilotsFor(retriever.All()), 8);
  const auto answer = Ask(retriever, retriever.All(), Queries());
  std::set<std::string> seen(answer.experts.begin(), answer.experts.end());
  EXPECT_GE(seen.size(), 2u);  // the fixture does not send all to one
  EXPECT_THAT(answer.vectors.tokens, Each(::testing::Gt(12)));
  const auto width = static_cast<size_t>(retriever.base().width());
  for (size_t q = 0; q < Queries().size(); ++q) {
    int e = 0;
    while (tiny_.experts()[e].manifest.id() != answer.experts[q]) ++e;
    const auto lora =
        package::LoadLora(tiny_.experts()[e].folder, retriever.base().config());
    ASSERT_TRUE(lora.ok());
    const auto own = retriever.base().Encode(
        std::vector<std::string>{Queries()[q]}, &(*lora)->lora);
    EXPECT_EQ(
        std::vector<float>(answer.vectors.values.begin() + q * width,
                           answer.vectors.values.begin() + (q + 1) * width),
        own->values);
  }
}

TEST_F(RetrieverTest, WithoutExpertsTheBaseAnswers) {
  const auto loaded = Load(Lock({0, 1, 2, 3}));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto plain = (*loaded)->base().Encode(Queries());
  for (const math::ExpertMask set : {0, 1}) {
    const auto answer = Ask(**loaded, set, Queries());
    EXPECT_EQ(answer.vectors.values, plain->values);
    EXPECT_THAT(answer.experts, Each(""));
  }
  // Alone without pilots, an expert is never chosen.
  const auto alone = Ask(**loaded, 1 | 1 << 4, Queries());
  EXPECT_EQ(alone.vectors.values, plain->values);
  const auto directory =
      Retriever::OfDirectory(tiny_.base().folder, math::Product::kExact);
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ((*directory)->name, "base");
  EXPECT_THAT((*directory)->experts, IsEmpty());
  const auto answer = Ask(**directory, (*directory)->All(), Queries());
  EXPECT_EQ(answer.vectors.values, plain->values);
  EXPECT_FALSE((*directory)->CheckActive(1).ok());
  EXPECT_TRUE((*directory)->CheckActive(0).ok());
}

TEST_F(RetrieverTest, DigestsAreCompared) {
  const v1::CompositionLock lock = Lock({0, 1, 2});
  const auto tampered = [&](const std::string& path) {
    std::string bytes;
    {
      std::ifstream in(path, std::ios::binary);
      bytes.assign(std::istreambuf_iterator<char>(in), {});
    }
    std::string other = bytes;
    other.back() ^= 1;
    std::ofstream(path, std::ios::binary) << other;
    const auto loaded = Load(lock);
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss) << path;
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(path));
    std::ofstream(path, std::ios::binary) << bytes;
  };
  tampered(tiny_.pilots()[1].folder + "/weights.safetensors");
  tampered(tiny_.pilots()[1].folder + "/manifest.json");
  tampered(tiny_.experts()[2].folder + "/adapter_model.safetensors");
  tampered(tiny_.experts()[2].folder + "/adapter_config.json");
  tampered(tiny_.base().folder + "/weights.safetensors");
  tampered(tiny_.base().folder + "/modules.json");
  EXPECT_TRUE(Load(lock).ok());
  // A file that nobody signed and the loader would read instead.
  std::filesystem::copy(tiny_.base().folder + "/weights.safetensors",
                        tiny_.base().folder + "/model.safetensors");
  EXPECT_THAT(Refusal(lock), AllOf(HasSubstr("model.safetensors"),
                                   HasSubstr("does not list it")));
}

TEST_F(RetrieverTest, WhatDoesNotFitIsRefused) {
  v1::CompositionLock lock = Lock({0, 1, 2});
  lock.set_method("flexolmo");
  EXPECT_THAT(Refusal(lock), HasSubstr("router_retriever"));
  LoadOptions router;
  router.router = "topk";
  EXPECT_THAT(std::string(Load(Lock({0}), router).status().message()),
              HasSubstr("pilots route"));
  LoadOptions missing;
  missing.all = false;
  missing.only = {4};
  EXPECT_FALSE(Load(Lock({0, 1}), missing).ok());

  // Pilots made with an adapter that is another now.
  std::vector<assemble::Part> experts = tiny_.Experts({0, 1});
  experts[1] = tiny_.Adapter(1, "1.1.0", {.seed = 77});
  EXPECT_THAT(Refusal(LockOf(experts, tiny_.PilotsOf({0}))),
              AllOf(HasSubstr("a.example/pilots-adapter@1.0.0"),
                    HasSubstr("another adapter b.example/adapter@1.0.0")));

  // A rank that is not the manifest's, and one that the base cannot take.
  experts = tiny_.Experts({0});
  v1::ExpertManifest lies = experts[0].manifest;
  lies.mutable_adapter()->set_rank(3);
  experts[0] = tiny_.Finish(experts[0].folder, lies);
  EXPECT_THAT(Refusal(LockOf(experts, {})),
              AllOf(HasSubstr("rank 2"), HasSubstr("rank 3")));

  // Of another base.
  lies = tiny_.experts()[1].manifest;
  lies.mutable_base()->set_manifest_sha256(std::string(64, 'b'));
  experts[0] = tiny_.Finish(tiny_.experts()[1].folder, lies);
  EXPECT_THAT(Refusal(LockOf(experts, {})), HasSubstr("base manifest"));

  // More groups than rows, and a number that is none.
  v1::ExpertManifest m = tiny_.pilots()[2].manifest;
  const auto width = static_cast<size_t>(tiny_.encoder().width());
  m.set_id("c.example/pilots-short@1.0.0");
  const auto shorter = tiny_.WritePilots(m, std::vector<float>(3 * width, 1));
  EXPECT_THAT(Refusal(LockOf(tiny_.Experts({2}), {shorter})),
              AllOf(HasSubstr("[3, 32]"), HasSubstr("[4, 32]")));
  m.set_id("c.example/pilots-odd@1.0.0");
  std::vector<float> rows(4 * width, 1);
  rows[2 * width + 5] = NAN;  // of the third group, expert 2's own
  const auto odd = tiny_.WritePilots(m, rows);
  EXPECT_THAT(Refusal(LockOf(tiny_.Experts({2}), {odd})),
              HasSubstr("pilot 2 with nan"));
}

}  // namespace
}  // namespace motet::retrieve
