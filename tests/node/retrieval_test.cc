// SPDX-License-Identifier: Apache-2.0
// Owners' nodes with retrieval corpora: adapters, pilots from one another's
// adapters, what of an owner's queries leaves, and what is refused.
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "compose/measure/query_scores.h"
#include "compose/package/peft.h"
#include "node/retrieval_jobs.h"
#include "tests/node/retrieval_fixture.h"

namespace motet::node {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ReadAll;

TEST_F(RetrievalJobs, AdaptersThenPilotsOfOneAnother) {
  Join("sea");
  Join("law");
  const package::OpenedPackage sea = Train("sea");
  Train("law");
  const v1::ExpertManifest& m = sea.manifest;
  EXPECT_EQ(m.kind(), package::kEmbeddingAdapter);
  EXPECT_EQ(m.adapter().rank(), 2u);
  EXPECT_EQ(m.adapter().queries(), static_cast<uint64_t>(kQueries));
  EXPECT_EQ(m.training().steps(), 6u);
  EXPECT_EQ(m.domain().documents(), static_cast<uint64_t>(kQueries));
  const auto base =
      retrieve::TextEncoder::Load(base_.folder, math::Product::kExact);
  ASSERT_TRUE(base.ok()) << base.status();
  std::vector<std::unique_ptr<package::LoadedLora>> adapters;
  for (const char* name : {"sea", "law"}) {
    auto lora =
        package::LoadLora(Published(Adapter(name)).folder, (*base)->config());
    ASSERT_TRUE(lora.ok()) << lora.status();
    adapters.push_back(*std::move(lora));
  }
  // Training did something: B begins as zeros.
  const math::Tensor& b = adapters[0]->lora.At(0, model::EncoderMap::kQuery).b;
  EXPECT_NE(std::count(b.f32(), b.f32() + b.size(), 0.0f), b.size());

  ASSERT_EQ(
      Run(owners_["sea"], PilotPlan("sea", {Adapter("law"), Adapter("sea")})),
      "");
  const package::OpenedPackage pilots = Published(Pilots("sea"));
  const v1::PilotRecord& record = pilots.manifest.pilots();
  EXPECT_EQ(record.of(), Adapter("sea"));
  EXPECT_EQ(record.experts(0).id(), Adapter("law"));
  EXPECT_EQ(record.scorings(), static_cast<uint64_t>(2 * kQueries));
  EXPECT_EQ(record.min_queries(), 2u);

  // What was published is what anyone with the text would make.
  const auto corpus = LoadRetrieval(owners_["sea"].settings, 2);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  std::vector<std::string> documents, queries;
  for (const auto& d : corpus->set.documents) {
    documents.push_back(retrieve::TextOf(d));
  }
  for (const auto& q : corpus->set.queries) queries.push_back(q.text);
  const auto vectors = (*base)->Encode(documents);
  const auto asked = (*base)->Encode(queries);
  ASSERT_TRUE(vectors.ok() && asked.ok());
  std::vector<double> scores(2 * kQueries);
  for (int e = 0; e < 2; ++e) {
    const auto of = measure::QueryScores(**base, &adapters[1 - e]->lora,
                                         corpus->set, vectors->values);
    ASSERT_TRUE(of.ok()) << of.status();
    for (int q = 0; q < kQueries; ++q) scores[2 * q + e] = (*of)[q];
  }
  retrieve::PilotOptions options;
  options.min_queries = 2;
  options.own = 1;
  retrieve::MadePilots want =
      retrieve::MakePilots(scores, asked->values, 2, 16, options);
  retrieve::SetGates(scores, asked->values, 2, 16, options.own,
                     retrieve::kGateShare, want);
  EXPECT_EQ(record.gate_share(), retrieve::kGateShare);
  ASSERT_EQ(record.groups_size(), static_cast<int>(want.groups.size()));
  EXPECT_EQ(record.withheld(), static_cast<uint64_t>(want.withheld));
  const math::Tensor table = pilots.weights->Find("pilots");
  for (int g = 0; g < record.groups_size(); ++g) {
    EXPECT_EQ(record.groups(g).queries(),
              static_cast<uint64_t>(want.groups[g].queries));
    EXPECT_EQ(record.groups(g).gate(), want.groups[g].gate);
    EXPECT_GT(record.groups(g).gate(), 0);
    EXPECT_EQ(0, std::memcmp(table.f32() + 16 * g, want.groups[g].mean.data(),
                             16 * sizeof(float)));
  }
}

// Nothing of 12 bytes or more of an owner's queries and documents, nor their
// names, in any message of its node or any byte that it published; and no
// vector of a single query among the pilots.
TEST_F(RetrievalJobs, NoTextOfAnOwnerLeaves) {
  constexpr size_t kBytes = 12;
  Join("sea");
  Join("law");
  Train("sea");
  Train("law");
  for (const char* name : {"sea", "law"}) {
    ASSERT_EQ(
        Run(owners_[name], PilotPlan(name, {Adapter("law"), Adapter("sea")})),
        "");
  }
  // A job that fails in the owner's text says nothing of it either.
  ASSERT_THAT(
      Run(owners_["sea"],
          [&] {
            v1::TrainingPlan plan = Plan("fails", package::kEmbeddingAdapter);
            const std::string& path =
                owners_["sea"].settings.Path("corpus/retrieval/queries.jsonl");
            EXPECT_TRUE(proto::WriteFileAtomic(path, ReadAll(path) +
                                                         "{\"_id\": \"sea-"
                                                         "question-1\"}\n")
                            .ok());
            return plan;
          }()),
      HasSubstr("queries.jsonl"));

  const auto base =
      retrieve::TextEncoder::Load(base_.folder, math::Product::kExact);
  ASSERT_TRUE(base.ok());
  for (const std::string name : {"sea", "law"}) {
    std::unordered_set<std::string> pieces;
    std::vector<std::string> texts;
    for (int i = 0; i < kQueries; ++i) {
      for (const std::string& text : {DocumentText(name, i), QueryText(name, i),
                                      absl::StrCat(name, "-document-", i),
                                      absl::StrCat(name, "-question-", i)}) {
        for (size_t at = 0; at + kBytes <= text.size(); ++at) {
          pieces.insert(text.substr(at, kBytes));
        }
      }
      texts.push_back(QueryText(name, i));
    }
    const auto holds = [&](const std::string& bytes) {
      for (size_t at = 0; at + kBytes <= bytes.size(); ++at) {
        if (pieces.contains(bytes.substr(at, kBytes))) return true;
      }
      return false;
    };
    const Owner& owner = owners_.at(name);
    // The canary sings where the text is.
    ASSERT_TRUE(
        holds(ReadAll(owner.settings.Path("corpus/retrieval/corpus.jsonl"))));
    // And in a message that has it, whatever stands around it.
    ASSERT_FALSE(owner.coordinator->messages().empty());
    for (const std::string& text : {QueryText(name, 3), DocumentText(name, 0),
                                    absl::StrCat(name, "-question-", 5)}) {
      v1::NodeMessage leak = owner.coordinator->messages().back();
      leak.mutable_update()->set_detail(absl::StrCat("failed at '", text, "'"));
      EXPECT_TRUE(holds(leak.SerializeAsString())) << text;
      v1::NodeMessage greeting;
      greeting.mutable_hello()->add_jobs()->set_detail(text.substr(2, 12));
      EXPECT_TRUE(holds(greeting.SerializeAsString())) << text;
    }
    std::vector<std::string> said;
    for (const v1::NodeMessage& message : owner.coordinator->messages()) {
      said.push_back(message.SerializeAsString());
    }
    EXPECT_GE(said.size(), 6u);
    for (const std::string& id : {Adapter(name), Pilots(name)}) {
      const auto bytes = BytesOf(Published(id).folder);
      EXPECT_GE(bytes.size(), 4u);
      said.insert(said.end(), bytes.begin(), bytes.end());
    }
    for (const std::string& bytes : said) {
      EXPECT_FALSE(holds(bytes)) << bytes.substr(0, 200);
      EXPECT_EQ(bytes.find(owner.settings.dir), std::string::npos);
    }
    const auto vectors = (*base)->Encode(texts);
    ASSERT_TRUE(vectors.ok());
    const size_t row = 16 * sizeof(float);
    const std::string tables =
        ReadAll(Published(Pilots(name)).folder + "/weights.safetensors");
    for (int i = 0; i < kQueries; ++i) {
      const std::string one(
          reinterpret_cast<const char*>(vectors->values.data() + 16 * i), row);
      EXPECT_EQ(tables.find(one), std::string::npos) << i;
    }
  }
}

// An owner that comes later ranks its own queries with every adapter, and
// nothing of the others changes.
TEST_F(RetrievalJobs, ANewOwnerCostsItsOwnRankingsAlone) {
  Join("sea");
  Join("law");
  Train("sea");
  Train("law");
  ASSERT_EQ(
      Run(owners_["sea"], PilotPlan("sea", {Adapter("law"), Adapter("sea")})),
      "");
  const std::vector<std::string> others = {Adapter("sea"), Adapter("law"),
                                           Pilots("sea")};
  std::vector<std::vector<std::string>> before;
  for (const std::string& id : others) {
    before.push_back(BytesOf(Published(id).folder));
  }
  const int published = registry_.publishes;
  Join("art");
  Train("art");
  ASSERT_EQ(
      Run(owners_["art"],
          PilotPlan("art", {Adapter("art"), Adapter("law"), Adapter("sea")})),
      "");
  const package::OpenedPackage pilots = Published(Pilots("art"));
  EXPECT_EQ(pilots.manifest.pilots().scorings(),
            static_cast<uint64_t>(3 * kQueries));
  EXPECT_LE(pilots.weights->Find("pilots").shape.dim[0], 3);
  EXPECT_EQ(registry_.publishes, published + 2);
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(BytesOf(Published(others[i]).folder), before[i]) << others[i];
  }
}

TEST_F(RetrievalJobs, WhatCannotBeIsRefusedByName) {
  Join("sea");
  Join("closed", "forbidden_purposes = [\"scoring\"]\n");
  Join("few", "", 1);
  Join("none", "", 0);
  Train("sea");
  Train("closed");
  // No corpus; too few queries. What the coordinator reads is no file of the
  // owner's.
  EXPECT_THAT(
      Run(owners_["none"], Plan("a", package::kEmbeddingAdapter)),
      AllOf(HasSubstr("JOB_FAILED"), HasSubstr("motet-node corpus import")));
  EXPECT_THAT(
      Run(owners_["few"], Plan("a", package::kEmbeddingAdapter)),
      AllOf(HasSubstr("1 judged training queries"), HasSubstr("at least 2")));
  EXPECT_THAT(owners_["few"].coordinator->Last("a").detail(),
              AllOf(HasSubstr("the node's log says why"),
                    ::testing::Not(HasSubstr("corpus/"))));
  // Another owner's licence, its own is no matter.
  EXPECT_THAT(Run(owners_["sea"],
                  PilotPlan("sea", {Adapter("closed"), Adapter("sea")})),
              AllOf(HasSubstr("JOB_FAILED"), HasSubstr(Adapter("closed")),
                    HasSubstr("licence forbids purpose scoring")));
  EXPECT_EQ(Run(owners_["closed"],
                PilotPlan("closed", {Adapter("closed"), Adapter("sea")})),
            "");
  // Digests that the plan did not name; a revoked package, although it was
  // fetched before.
  v1::TrainingPlan plan =
      PilotPlan("closed", {Adapter("closed"), Adapter("sea")});
  plan.set_id("weights");
  plan.mutable_scored(1)->set_weights_sha256(std::string(64, 'a'));
  EXPECT_THAT(Run(owners_["closed"], plan),
              AllOf(HasSubstr("weights is"), HasSubstr("the plan wants aaaa")));
  plan = PilotPlan("closed", {Adapter("closed"), Adapter("sea")});
  plan.set_id("revoked");
  {
    std::lock_guard lock(registry_.mutex);
    registry_.revoked.insert(plan.scored(1).manifest_sha256());
  }
  EXPECT_THAT(Run(owners_["closed"], plan),
              AllOf(HasSubstr(Adapter("sea")), HasSubstr("revoked (withdrawn)"),
                    HasSubstr("JOB_FAILED")));
  EXPECT_THAT(owners_["closed"].coordinator->Last("revoked").detail(),
              HasSubstr("revoked"));
  // An adapter of another base.
  const package::OpenedPackage other = MakeEncoder("demo/other@1.0.0", 2);
  plan = PilotPlan("closed", {Adapter("closed")});
  plan.set_id("other");
  *plan.mutable_base() = package::ReferenceTo(other);
  EXPECT_THAT(
      Run(owners_["closed"], plan),
      AllOf(HasSubstr("JOB_FAILED"), HasSubstr("base.manifest_sha256")));
  // A plan of text beside an encoder.
  plan = testing::SomePlan("text");
  *plan.mutable_base() = package::ReferenceTo(base_);
  EXPECT_THAT(Run(owners_["sea"], plan),
              HasSubstr("method flexolmo is not among router_retriever"));
}

// Without consent nothing runs; groups below the floor stay.
TEST_F(RetrievalJobs, ConsentAndTheOwnersFloor) {
  Owner& sea = Join("sea");
  Train("sea");
  ASSERT_TRUE(proto::WriteFileAtomic(sea.settings.Path("policy.toml"),
                                     "[pilots]\nmin_queries = 12\nnoise = "
                                     "0.5\n")
                  .ok());
  v1::TrainingPlan plan = PilotPlan("sea", {Adapter("sea")});
  EXPECT_THAT(Run(sea, plan), HasSubstr("JOB_AWAITING_CONSENT"));
  ASSERT_TRUE(LeaveDecision(sea.settings.dir, plan.id(), {}).ok());
  ASSERT_TRUE(testing::WaitFor([&] {
    return sea.coordinator->Last(plan.id()).state() == v1::JOB_PUBLISHED;
  })) << sea.coordinator->Last(plan.id()).detail();
  const package::OpenedPackage pilots = Published(Pilots("sea"));
  EXPECT_EQ(pilots.manifest.pilots().noise(), 0.5);
  EXPECT_EQ(pilots.manifest.pilots().groups(0).queries(), 12u);
  EXPECT_EQ(pilots.manifest.pilots().gate_share(), retrieve::kGateShare);
  EXPECT_LE(std::abs(pilots.manifest.pilots().groups(0).gate()), 1);
  // Noise: nobody can make these numbers again.
  const auto base =
      retrieve::TextEncoder::Load(base_.folder, math::Product::kExact);
  ASSERT_TRUE(base.ok());
  std::vector<std::string> queries;
  for (int i = 0; i < kQueries; ++i) queries.push_back(QueryText("sea", i));
  const auto vectors = (*base)->Encode(queries);
  double apart = 0;
  for (int c = 0; c < 16; ++c) {
    double mean = 0;
    for (int i = 0; i < kQueries; ++i) mean += vectors->values[16 * i + c];
    apart +=
        std::abs(mean / kQueries - pilots.weights->Find("pilots").f32()[c]);
  }
  EXPECT_GT(apart, 0.5);

  ASSERT_TRUE(proto::WriteFileAtomic(sea.settings.Path("policy.toml"),
                                     "[approve]\nmethods = "
                                     "[\"router_retriever\"]\npublish = "
                                     "[\"mean vectors of groups of queries, "
                                     "with counts and reach\"]\n[pilots]\n"
                                     "min_queries = 12\n")
                  .ok());
  // Fewer queries than the floor are in any group.
  plan.set_id("again");
  plan.set_expert_version("1.1.0");
  plan.set_max_queries(6);
  EXPECT_THAT(Run(sea, plan), AllOf(HasSubstr("1 groups of 6 queries"),
                                    HasSubstr("lower [pilots] min_queries")));
}

}  // namespace
}  // namespace motet::node
