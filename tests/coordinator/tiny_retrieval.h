// SPDX-License-Identifier: Apache-2.0
// A retrieval composition in small: a random encoder, two experts with random
// adapters, and a router that looks at the base's vector, as the real one
// does. legal's licence forbids advertising and one tenant.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "compose/retrieve/index_writer.h"
#include "coordinator/policy.h"
#include "coordinator/retrieval.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/error.h"
#include "tests/harness/encoder_directory.h"

namespace motet::coordinator {

struct TinyServed : assemble::Served {
  TinyServed() {
    name = "finder";
    lock_sha256 = std::string(64, 'a');
    experts.resize(3);
    experts[0].id = "demo/encoder@1.0.0";
    experts[0].always = true;
    experts[1].id = "code.example/code@1.0.0";
    experts[1].domain = "code";
    experts[2].id = "legal.example/legal@1.0.0";
    experts[2].domain = "legal";
    experts[2].licence.add_forbidden_purposes("advertising");
    experts[2].licence.add_forbidden_tenants("rival.example");
    for (size_t i = 0; i < experts.size(); ++i) {
      experts[i].manifest_sha256 = std::string(64, static_cast<char>('0' + i));
    }
  }
  absl::Status CheckActive(uint32_t active) const override {
    if (active == 0) return absl::OkStatus();
    return proto::Invalid("experts.active", std::to_string(active),
                          "none: one expert answers a query");
  }
};

// Random factors, the same for the same seed.
struct TinyLora {
  TinyLora(const model::EncoderConfig& config, int seed) {
    lora.config.targets = {"query", "value"};
    model::VisitLora(
        config, lora,
        [&](const std::string&, const math::Shape& want, math::Tensor& tensor) {
          values.emplace_back(static_cast<size_t>(want.size()));
          for (size_t i = 0; i < values.back().size(); ++i) {
            values.back()[i] =
                0.1f * static_cast<float>((i * 31 + seed) % 7) - 0.3f;
          }
          tensor.data = values.back().data();
          tensor.shape = want;
        });
  }
  std::vector<std::vector<float>> values;
  model::Lora lora;
};

class TinyQueries : public retrieve::QueryEncoder {
 public:
  TinyQueries(const retrieve::TextEncoder& base,
              std::vector<const TinyLora*> loras, math::ExpertMask set)
      : base_(base), loras_(std::move(loras)), set_(set) {}
  absl::StatusOr<Queries> Encode(
      std::span<const std::string> queries) const override {
    Queries out;
    MOTET_ASSIGN_OR_RETURN(out.vectors, base_.Encode(queries));
    const auto width = static_cast<size_t>(base_.width());
    for (size_t q = 0; q < queries.size(); ++q) {
      float* vector = out.vectors.values.data() + q * width;
      size_t best = 0;
      for (size_t e = 1; e <= loras_.size(); ++e) {
        if ((set_ >> e & 1) == 0) continue;
        if (best == 0 || vector[e] > vector[best]) best = e;
      }
      static const char* const kNames[] = {"", "code.example/code@1.0.0",
                                           "legal.example/legal@1.0.0"};
      out.experts.push_back(kNames[best]);
      if (best == 0) continue;
      MOTET_ASSIGN_OR_RETURN(
          const retrieve::Vectors second,
          base_.Encode(queries.subspan(q, 1), &loras_[best - 1]->lora));
      std::copy(second.values.begin(), second.values.end(), vector);
    }
    return out;
  }
  const retrieve::TextEncoder& base() const override { return base_; }

 private:
  const retrieve::TextEncoder& base_;
  std::vector<const TinyLora*> loras_;
  math::ExpertMask set_;
};

// Everything, with an index of three documents called "notes".
class TinyRetrieval {
 public:
  TinyRetrieval()
      : folder_(
            ::testing::TempDir() + "tiny_retrieval_" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    ::motet::testing::WriteEncoderDirectory(folder_ + "/encoder");
    base_ = *retrieve::TextEncoder::Load(folder_ + "/encoder",
                                         math::Product::kExact);
    code_ = std::make_unique<TinyLora>(base_->config(), 1);
    legal_ = std::make_unique<TinyLora>(base_->config(), 4);
    std::ofstream(folder_ + "/corpus.jsonl", std::ios::binary)
        << "{\"_id\": \"sea\", \"text\": \"salt water of the sea\", "
           "\"metadata\": {\"year\": 1999, \"wet\": true}}\n"
           "{\"_id\": \"law\", \"title\": \"Law\", \"text\": \"of the land\", "
           "\"metadata\": {\"year\": 2001}}\n"
           "{\"_id\": \"sort\", \"text\": \"sorting numbers\"}\n";
    MakeIndex("notes", *base_);
  }
  ~TinyRetrieval() { std::filesystem::remove_all(folder_); }

  void MakeIndex(const std::string& name, const retrieve::TextEncoder& base) {
    auto writer = retrieve::IndexWriter::Create(
        folder_ + "/" + name,
        retrieve::HeaderFor(base, retrieve::IndexKind::kAuto));
    ASSERT_TRUE(writer.ok()) << writer.status();
    const auto report =
        retrieve::AddCorpus(**writer, base, folder_ + "/corpus.jsonl", {});
    ASSERT_TRUE(report.ok()) << report.status();
  }
  QueriesFor queries_for() const {
    return [this](math::ExpertMask set) {
      return std::make_unique<TinyQueries>(
          *base_, std::vector<const TinyLora*>{code_.get(), legal_.get()}, set);
    };
  }
  // Without any server: one query, by a composition of these experts.
  retrieve::QueryEncoder::Queries Direct(const std::string& query,
                                         math::ExpertMask set) const {
    return *queries_for()(set)->Encode(std::span(&query, 1));
  }
  std::unique_ptr<Retrieval> Open(const std::vector<std::string>& indexes,
                                  const RetrievalOptions& options = {}) {
    std::vector<ServedIndex> opened;
    for (const std::string& name : indexes) {
      auto index = OpenServedIndex(name + "=" + folder_ + "/" + name, *base_);
      EXPECT_TRUE(index.ok()) << index.status();
      opened.push_back(*std::move(index));
    }
    auto retrieval = Retrieval::Create(served_, *base_, gate_, *engine_,
                                       std::move(opened), options);
    EXPECT_TRUE(retrieval.ok()) << retrieval.status();
    return *std::move(retrieval);
  }
  void StartEngine(const RetrievalEngineOptions& options = {}) {
    engine_ = std::make_unique<RetrievalEngine>(*base_, queries_for(), options);
  }

  const std::string& folder() const { return folder_; }
  const retrieve::TextEncoder& base() const { return *base_; }
  const PolicyGate& gate() const { return gate_; }
  RetrievalEngine& engine() const { return *engine_; }

 private:
  std::string folder_;
  TinyServed served_;
  PolicyGate gate_{served_, {}};
  std::unique_ptr<retrieve::TextEncoder> base_;
  std::unique_ptr<TinyLora> code_, legal_;
  std::unique_ptr<RetrievalEngine> engine_;
};

}  // namespace motet::coordinator
