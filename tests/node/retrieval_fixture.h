// SPDX-License-Identifier: Apache-2.0
// Owners' nodes with retrieval corpora beside a tiny encoder, for the tests of
// their jobs: a coordinator that records for each, one registry that is a map.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/package/encoder_folder.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/manifest_training.h"
#include "compose/package/package_folder.h"
#include "node/corpus_store.h"
#include "node/daemon.h"
#include "proto/files.h"
#include "tests/harness/encoder_directory.h"
#include "tests/node/support.h"

namespace motet::node {

inline constexpr int kQueries = 12;

// A document and a query for each number; no two owners share a word, and
// every text has a word of its own.
inline std::string Number(int i) {
  std::string word;
  for (const char c : std::to_string(1000 + i * 37)) {
    word += static_cast<char>('a' + (c - '0'));
  }
  return word;
}
inline std::string DocumentText(const std::string& word, int i) {
  return absl::StrCat(word, " page of the ", word, " about ", Number(i), " ",
                      word);
}
inline std::string QueryText(const std::string& word, int i) {
  return absl::StrCat("where ", word, " tells of ", Number(i), " and ", word);
}

inline std::string WriteBeir(const std::string& word, int queries = kQueries) {
  const std::string folder = testing::NewFolder("beir");
  std::string corpus, asked, judged = "query-id\tcorpus-id\tscore\n";
  for (int i = 0; i < queries; ++i) {
    absl::StrAppend(&corpus, "{\"_id\": \"", word, "-document-", i,
                    "\", \"title\": \"\", \"text\": \"", DocumentText(word, i),
                    "\"}\n");
    absl::StrAppend(&asked, "{\"_id\": \"", word, "-question-", i,
                    "\", \"text\": \"", QueryText(word, i), "\"}\n");
    absl::StrAppend(&judged, word, "-question-", i, "\t", word, "-document-", i,
                    "\t1\n");
  }
  EXPECT_TRUE(proto::MakeDirectories(folder + "/qrels").ok());
  EXPECT_TRUE(proto::WriteFileAtomic(folder + "/corpus.jsonl", corpus).ok());
  EXPECT_TRUE(proto::WriteFileAtomic(folder + "/queries.jsonl", asked).ok());
  EXPECT_TRUE(proto::WriteFileAtomic(folder + "/qrels/train.tsv", judged).ok());
  return folder;
}

struct Owner {
  std::unique_ptr<testing::FakeCoordinator> coordinator;
  Settings settings;
  std::unique_ptr<Daemon> daemon;
};

class RetrievalJobs : public ::testing::Test {
 protected:
  RetrievalJobs() : registry_(testing::NewFolder("registry")) {
    base_ = MakeEncoder("demo/base@1.0.0", 1);
  }

  package::OpenedPackage MakeEncoder(const std::string& id, uint64_t seed) {
    const std::string folder = testing::NewFolder("encoder");
    motet::testing::EncoderOptions o;
    o.seed = seed;
    o.width = 16;
    o.heads = 2;
    o.ffn_width = 24;
    o.layers = 1;
    motet::testing::WriteEncoderDirectory(folder, o);
    const auto loaded = package::LoadEncoder(folder);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    package::PackageContent content;
    content.manifest.set_id(id);
    content.manifest.set_kind(package::kEncoder);
    *content.manifest.mutable_model() =
        package::ShapeOfEncoder((*loaded)->config);
    content.manifest.mutable_domain()->set_domain("public");
    model::EncoderWeights weights = (*loaded)->weights;
    model::VisitEncoderWeights(
        (*loaded)->config, weights,
        [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
          content.weights.push_back({name, tensor});
        });
    for (const char* name :
         {"config.json", "tokenizer.json", "modules.json",
          "1_Pooling/config.json", "sentence_bert_config.json"}) {
      content.files[name] = testing::ReadAll(absl::StrCat(folder, "/", name));
    }
    content.readme = "# encoder\n";
    const absl::Status built = package::BuildPackage(
        folder + "/package", content, federation_.coordinator_key,
        federation_.coordinator_certificate);
    EXPECT_TRUE(built.ok()) << built;
    registry_.Put(id, folder + "/package");
    return *package::OpenPackage(folder + "/package", Authority());
  }
  const std::string& Authority() {
    return federation_.authority.certificate_pem;
  }

  // A joined node with a corpus of the word, running.
  Owner& Join(const std::string& name, const std::string& more = "",
              int queries = kQueries) {
    Owner& owner = owners_[name];
    owner.coordinator =
        std::make_unique<testing::FakeCoordinator>(federation_.coordinator);
    owner.settings =
        federation_.JoinedNode(owner.coordinator->address(), name + ".example");
    EXPECT_TRUE(
        proto::WriteFileAtomic(
            owner.settings.Path("policy.toml"),
            absl::StrCat("[approve]\nmethods = [\"router_retriever\"]\n"
                         "publish = [\"adapter weights\", \"mean vectors of "
                         "groups of queries, with counts and reach\"]\n"
                         "[pilots]\nmin_queries = 2\n[licence]\n"
                         "spdx = \"CC-BY-4.0\"\n",
                         more))
            .ok());
    if (queries > 0) {
      const auto r = ImportRetrieval(owner.settings, WriteBeir(name, queries));
      EXPECT_TRUE(r.ok()) << r.status();
    }
    DaemonOptions options;
    options.settings = owner.settings;
    options.poll_ms = 20;
    options.first_backoff_ms = 20;
    options.longest_backoff_ms = 100;
    options.registry = [this] {
      return absl::StatusOr<std::unique_ptr<registry::Client>>(
          registry_.NewClient());
    };
    auto daemon = Daemon::Create(options);
    EXPECT_TRUE(daemon.ok()) << daemon.status();
    owner.daemon = *std::move(daemon);
    owner.daemon->Start();
    return owner;
  }

  v1::TrainingPlan Plan(const std::string& id, const std::string& kind) {
    v1::TrainingPlan p;
    p.set_id(id);
    p.set_kind(kind);
    p.set_method("router_retriever");
    p.set_expert_version("1.0.0");
    p.set_issued_by("spiffe://demo/coordinator/main");
    p.set_issued_at("2026-01-01T00:00:00Z");
    p.set_seed(3);
    *p.mutable_base() = package::ReferenceTo(base_);
    if (kind == package::kEmbeddingAdapter) {
      p.set_steps(6);
      p.set_batch_sequences(4);
      p.set_learning_rate(1e-2);
      p.set_warmup_steps(1);
      p.set_clip_norm(1);
      p.set_adapter_rank(2);
      p.set_adapter_alpha(8);
      p.set_temperature(0.05);
      p.set_checkpoint_every(2);
      p.set_hard_negatives(1);
    }
    for (const std::string& what : package::Leaves(p)) p.add_publishes(what);
    return p;
  }
  // Waits for an end; "" when it was published.
  std::string Run(Owner& owner, const v1::TrainingPlan& plan) {
    owner.coordinator->Offer(plan);
    v1::JobUpdate last;
    EXPECT_TRUE(testing::WaitFor([&] {
      last = owner.coordinator->Last(plan.id());
      return last.state() == v1::JOB_PUBLISHED ||
             last.state() == v1::JOB_FAILED ||
             last.state() == v1::JOB_REFUSED ||
             last.state() == v1::JOB_AWAITING_CONSENT;
    })) << plan.id();
    if (last.state() == v1::JOB_PUBLISHED) return "";
    const auto job = owner.daemon->jobs().Get(plan.id());
    return absl::StrCat(v1::JobState_Name(last.state()), ": ",
                        job.ok() ? job->detail : "");
  }
  package::OpenedPackage Published(const std::string& id) {
    std::string folder;
    {
      std::lock_guard lock(registry_.mutex);
      folder = registry_.by_id.at(id);
    }
    auto opened = package::OpenPackage(folder, Authority());
    EXPECT_TRUE(opened.ok()) << opened.status();
    const absl::Status fits = package::CheckAgainstBase(*opened, base_);
    EXPECT_TRUE(fits.ok()) << fits;
    return *opened;
  }
  static std::string Adapter(const std::string& name) {
    return absl::StrCat(name, ".example/", name, "@1.0.0");
  }
  static std::string Pilots(const std::string& name) {
    return absl::StrCat(name, ".example/pilots-", name, "@1.0.0");
  }
  package::OpenedPackage Train(const std::string& name) {
    EXPECT_EQ(Run(owners_.at(name),
                  Plan("train-" + name, package::kEmbeddingAdapter)),
              "");
    return Published(Adapter(name));
  }
  v1::TrainingPlan PilotPlan(const std::string& name,
                             const std::vector<std::string>& scored) {
    v1::TrainingPlan plan = Plan("pilots-" + name, package::kPilots);
    for (const std::string& id : scored) {
      const package::OpenedPackage opened = Published(id);
      v1::ScoredExpert* e = plan.add_scored();
      e->set_id(id);
      e->set_manifest_sha256(opened.manifest_sha256);
      e->set_weights_sha256(package::WeightsSha256(opened.manifest));
    }
    return plan;
  }
  static std::vector<std::string> BytesOf(const std::string& folder) {
    std::vector<std::string> bytes;
    for (const auto& file :
         std::filesystem::recursive_directory_iterator(folder)) {
      if (file.is_regular_file())
        bytes.push_back(testing::ReadAll(file.path()));
    }
    return bytes;
  }

  testing::TestFederation federation_;
  testing::FakeRegistry registry_;
  package::OpenedPackage base_;
  std::map<std::string, Owner> owners_;  // end before the registry
};

}  // namespace motet::node
