// SPDX-License-Identifier: Apache-2.0
// A served composition without an expert is the one that never had it: for
// every subset of experts, embeddings and searches over HTTP equal, bit for
// bit, those of a composition of the subset alone, over the same index.
#include <filesystem>
#include <fstream>
#include <set>

#include "compose/assemble/plan_parts.h"
#include "compose/retrieve/index_writer.h"
#include "compose/retrieve/retriever.h"
#include "coordinator/http/front_retrieval.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/tiny_retrieval.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;
using Tiny = retrieve::TinyRetrieval;

struct Recorder final : HttpReply {
  void Reply(int s, const std::string&, const std::string& b) override {
    status = s;
    body = b;
  }
  void StartStream() override { ADD_FAILURE(); }
  bool Send(const std::string&) override { return false; }
  bool Connected() override { return true; }
  int status = 0;
  std::string body;
};

// A composition of these experts, as `motet serve` runs it.
class ServedComposition {
 public:
  ServedComposition(const Tiny& tiny, const std::vector<int>& experts,
                    const std::string& index)
      : retriever_(Load(tiny, experts)), gate_(*retriever_, {}) {
    std::vector<ServedIndex> indexes;
    auto opened = OpenServedIndex("notes=" + index, retriever_->base());
    EXPECT_TRUE(opened.ok()) << opened.status();
    content_ = opened->index->ContentDigest();
    indexes.push_back(*std::move(opened));
    engine_ = std::make_unique<RetrievalEngine>(
        retriever_->base(),
        [this](math::ExpertMask set) { return retriever_->QueriesFor(set); },
        RetrievalEngineOptions());
    retrieval_ = *Retrieval::Create(*retriever_, retriever_->base(), gate_,
                                    *engine_, std::move(indexes), {});
    front_ = std::make_unique<RetrievalFront>(*retrieval_);
  }
  json Ask(const std::string& path, json fields) const {
    fields["model"] = "demo";
    Recorder reply;
    front_->Handle({"POST", path, fields.dump()}, reply);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body, nullptr, false);
  }
  const proto::Digest& index_content() const { return content_; }

 private:
  static std::unique_ptr<retrieve::Retriever> Load(
      const Tiny& tiny, const std::vector<int>& experts) {
    assemble::Recipe recipe;
    recipe.name = "demo";
    recipe.method = "router_retriever";
    v1::CompositionLock lock =
        assemble::LockOf(recipe, tiny.base(), tiny.Experts(experts));
    lock.set_exclusion("exact");
    v1::RetrieverLock& how = *lock.mutable_retriever();
    how.set_similarity("dot");
    how.set_aggregate("mean");
    for (const assemble::Part& part : tiny.PilotsOf(experts)) {
      v1::LockedPilots& locked = *how.add_pilots();
      locked.set_id(part.manifest.id());
      locked.set_manifest_sha256(part.manifest_sha256);
      for (const v1::FileDigest& file : part.manifest.files()) {
        if (file.path() != "weights.safetensors") continue;
        locked.set_weights_sha256(file.sha256());
      }
      locked.set_of(part.manifest.pilots().of());
    }
    auto loaded =
        retrieve::Retriever::Load(lock, tiny.FolderOf(), math::Product::kExact);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }

  std::unique_ptr<retrieve::Retriever> retriever_;
  PolicyGate gate_;
  proto::Digest content_;
  std::unique_ptr<RetrievalEngine> engine_;
  std::unique_ptr<Retrieval> retrieval_;
  std::unique_ptr<RetrievalFront> front_;
};

TEST(RetrievalExclusionTest, EverySubsetIsAsIfComposedAlone) {
  const std::string folder = ::testing::TempDir() + "retrieval_exclusion";
  std::filesystem::remove_all(folder);
  const Tiny tiny(folder + "/federation");
  {
    std::ofstream corpus(folder + "/corpus.jsonl", std::ios::binary);
    for (int e = 0; e < Tiny::kExperts; ++e) {
      for (int n = 0; n < 5; ++n) {
        corpus << json{{"_id", std::to_string(10 * e + n)},
                       {"text", Tiny::Text(e, 500 + n)}}
                      .dump()
               << "\n";
      }
    }
  }
  const auto base =
      retrieve::TextEncoder::Load(tiny.base().folder, math::Product::kExact);
  ASSERT_TRUE(base.ok()) << base.status();
  const std::string index = folder + "/index";
  {
    const auto writer = retrieve::IndexWriter::Create(
        index, retrieve::HeaderFor(**base, retrieve::IndexKind::kAuto));
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(
        retrieve::AddCorpus(**writer, **base, folder + "/corpus.jsonl", {})
            .ok());
  }
  std::vector<std::string> queries;
  for (int e = 0; e < Tiny::kExperts; ++e) {
    for (const std::string& text : Tiny::Texts(e, 100, 3)) {
      queries.push_back(text);
    }
  }
  const ServedComposition all(tiny, {0, 1, 2, 3}, index);
  std::set<std::string> seen;  // that the whole composition sends queries to
  for (int subset = 0; subset < 1 << Tiny::kExperts; ++subset) {
    std::vector<int> members;
    std::vector<std::string> left_out;
    for (int e = 0; e < Tiny::kExperts; ++e) {
      if ((subset >> e & 1) != 0) {
        members.push_back(e);
      } else {
        left_out.push_back(Tiny::Owner(e));
      }
    }
    const ServedComposition alone(tiny, members, index);
    const json without = {{"exclude", left_out}};
    const auto same = [&](const std::string& path, json fields,
                          const char* what) {
      const json want = alone.Ask(path, fields);
      fields["experts"] = without;
      const json got = all.Ask(path, fields);
      EXPECT_EQ(got[what], want[what]) << path << " subset " << subset;
      EXPECT_EQ(got["motet"]["experts"], want["motet"]["experts"]);
      EXPECT_EQ(got["usage"], want["usage"]);
      return got[what];
    };
    const json data =
        same("/v1/embeddings",
             {{"input", queries}, {"encoding_format", "base64"}}, "data");
    for (const json& entry : data) {
      const std::string expert = entry["expert"];
      for (const std::string& owner : left_out) {
        EXPECT_FALSE(expert.starts_with(owner)) << expert;
      }
      if (left_out.empty()) seen.insert(expert);
    }
    same("/v1/search", {{"queries", queries}, {"k", 5}}, "results");
    same("/v1/search", {{"queries", queries}, {"mode", "fusion"}}, "results");
    EXPECT_EQ(alone.index_content(), all.index_content());
  }
  EXPECT_GE(seen.size(), 2u);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace motet::coordinator
