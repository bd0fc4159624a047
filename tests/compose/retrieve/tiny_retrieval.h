// SPDX-License-Identifier: Apache-2.0
// A federation of retrieval in a folder: a tiny random encoder, adapters and
// pilots as package folders, unsigned. Header-only, for the tests of retrieve
// and assemble.
//
// Expert e is of texts in the e-th letters. Libraries point to the owner's
// own adapter and to the next one's; that of expert 2 to all; expert 3's
// owner published none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/assemble/composition.h"
#include "compose/package/manifest.h"
#include "compose/package/peft.h"
#include "compose/retrieve/pilots.h"
#include "compose/retrieve/text_encoder.h"
#include "gtest/gtest.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "tests/harness/encoder_directory.h"

namespace motet::retrieve {

struct AnAdapter {
  int64_t rank = 2;
  std::vector<std::string> targets = {"query", "value"};
  uint64_t seed = 1;
};

class TinyRetrieval {
 public:
  static constexpr int kExperts = 4;

  explicit TinyRetrieval(const std::string& folder) : folder_(folder) {
    std::filesystem::remove_all(folder_);
    MakeBase();
    for (int e = 0; e < kExperts; ++e) {
      experts_.push_back(Adapter(e, "1.0.0", {.seed = uint64_t(e) + 1}));
    }
    pilots_ = {Pilots(0, "1.0.0", {0, 1}), Pilots(1, "1.0.0", {1, 2}),
               Pilots(2, "1.0.0", {0, 1, 2, 3})};
  }
  ~TinyRetrieval() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  const assemble::Part& base() const { return base_; }
  const std::vector<assemble::Part>& experts() const { return experts_; }
  const std::vector<assemble::Part>& pilots() const { return pilots_; }
  std::vector<assemble::Part> Experts(const std::vector<int>& which) const {
    std::vector<assemble::Part> parts;
    for (const int e : which) parts.push_back(experts_[e]);
    return parts;
  }
  // The libraries of these experts.
  std::vector<assemble::Part> PilotsOf(const std::vector<int>& which) const {
    std::vector<assemble::Part> parts;
    for (const int e : which) {
      for (const assemble::Part& part : pilots_) {
        if (part.manifest.pilots().of() == experts_[e].manifest.id()) {
          parts.push_back(part);
        }
      }
    }
    return parts;
  }
  static assemble::Recipe RecipeFor(const std::vector<assemble::Part>& parts) {
    assemble::Recipe recipe;
    recipe.name = "demo";
    recipe.method = "router_retriever";
    for (const assemble::Part& part : parts) {
      recipe.experts.push_back(part.manifest.id());
    }
    return recipe;
  }
  static std::string Owner(int e) {
    return std::string(1, 'a' + e) + ".example";
  }
  std::string Path(const std::string& name) const {
    return folder_ + "/" + name;
  }
  assemble::PackageFolder FolderOf() const {
    return [this](const std::string& sha256) -> absl::StatusOr<std::string> {
      const auto it = folders_.find(sha256);
      if (it != folders_.end()) return it->second;
      return proto::Invalid("package", sha256, "one of the federation's");
    };
  }
  // Text n of domain e: words of its letters.
  static std::string Text(int e, int n) {
    std::mt19937 random(e * 1000 + n);
    std::string text;
    for (int i = 0; i < 12; ++i) {
      text += static_cast<char>('a' + 6 * e + random() % 6);
      if (i % 4 == 3) text += ' ';
    }
    return text;
  }
  static std::vector<std::string> Texts(int e, int first, int count) {
    std::vector<std::string> texts;
    for (int n = first; n < first + count; ++n) texts.push_back(Text(e, n));
    return texts;
  }

  assemble::Part Adapter(int e, const std::string& version,
                         const AnAdapter& adapter) {
    v1::ExpertManifest m =
        Begin(Owner(e) + "/adapter@" + version, "embedding_adapter");
    m.mutable_domain()->set_domain(absl::StrCat("domain", e));
    m.mutable_licence()->set_spdx("CC-BY-4.0");
    v1::AdapterRecord& record = *m.mutable_adapter();
    record.set_rank(static_cast<uint32_t>(adapter.rank));
    record.set_alpha(8);
    for (const auto& t : adapter.targets) record.add_targets(t);
    record.set_queries(100);
    const std::string folder = Path(absl::StrCat("adapter", e, "-", version));
    std::mt19937_64 random(adapter.seed);
    model::Lora lora;
    lora.config.rank = adapter.rank;
    lora.config.alpha = 8;
    lora.config.targets = adapter.targets;
    std::vector<std::vector<float>> values;
    model::VisitLora(
        encoder_->config(), lora,
        [&](const std::string&, const math::Shape& want, math::Tensor& tensor) {
          values.push_back(Random(random, want.size()));
          tensor.data = values.back().data();
          tensor.shape = want;
        });
    EXPECT_TRUE(package::SaveLora(folder, encoder_->config(), lora).ok());
    return Finish(folder, std::move(m));
  }

  // Owner of expert e on these experts, with their adapters as they are now.
  assemble::Part Pilots(int e, const std::string& version,
                        const std::vector<int>& experts) {
    v1::ExpertManifest m =
        Begin(Owner(e) + "/pilots-adapter@" + version, "pilots");
    v1::PilotRecord& record = *m.mutable_pilots();
    record.set_of(experts_[e].manifest.id());
    record.set_min_queries(4);
    record.set_gate_share(retrieve::kGateShare);
    record.set_scorings(4 * experts.size() * experts.size());
    std::vector<float> rows;
    const auto width = static_cast<size_t>(encoder_->width());
    for (const int other : experts) {
      const v1::ExpertManifest& scored = experts_[other].manifest;
      v1::PilotExpert& expert = *record.add_experts();
      expert.set_id(scored.id());
      for (const v1::FileDigest& file : scored.files()) {
        if (file.path() == "adapter_model.safetensors") {
          expert.set_weights_sha256(file.sha256());
        }
      }
      v1::PilotGroup& group = *record.add_groups();
      group.set_expert(scored.id());
      group.set_queries(4);
      const auto vectors = encoder_->Encode(Texts(other, 10 * e, 4));
      EXPECT_TRUE(vectors.ok());
      retrieve::MadePilots made;
      made.groups = {{0, 4, {}}};
      for (size_t c = 0; c < width; ++c) {
        float sum = 0;
        for (size_t q = 0; q < 4; ++q) sum += vectors->values[q * width + c];
        rows.push_back(sum / 4);
        made.groups[0].mean.push_back(sum / 4);
      }
      retrieve::SetGates(std::vector<double>(4, 1), vectors->values, 1,
                         encoder_->width(), 0, retrieve::kGateShare, made);
      group.set_gate(made.groups[0].gate);
    }
    return WritePilots(std::move(m), rows);
  }
  assemble::Part WritePilots(v1::ExpertManifest m,
                             const std::vector<float>& rows) {
    std::string name = m.id();
    name[name.find('/')] = '-';
    const std::string folder = Path(name);
    EXPECT_TRUE(proto::MakeDirectories(folder).ok());
    math::Tensor tensor;
    tensor.data = const_cast<float*>(rows.data());
    tensor.shape = {static_cast<int64_t>(rows.size()) / encoder_->width(),
                    encoder_->width()};
    EXPECT_TRUE(package::WriteSafetensors(folder + "/weights.safetensors",
                                          {{"pilots", tensor}})
                    .ok());
    return Finish(folder, std::move(m));
  }
  // With the files' digests, written beside them.
  assemble::Part Finish(const std::string& folder, v1::ExpertManifest m) {
    assemble::Part part;
    EXPECT_TRUE(proto::WriteFileAtomic(folder + "/README.md", "tiny\n").ok());
    m.clear_files();
    m.clear_tensors();
    std::map<std::string, std::string> files;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(folder)) {
      const std::string path =
          std::filesystem::relative(entry.path(), folder).string();
      if (entry.is_regular_file() && path != "manifest.json") {
        files[path] = entry.path();
      }
    }
    for (const auto& [path, whole] : files) {
      v1::FileDigest& file = *m.add_files();
      file.set_path(path);
      file.set_size_bytes(std::filesystem::file_size(whole));
      file.set_sha256(proto::Hex(*proto::Sha256File(whole)));
      if (!path.ends_with(".safetensors")) continue;
      for (const auto& t :
           package::TensorTable(**package::SafetensorsFile::Open(whole))) {
        *m.add_tensors() = t;
      }
    }
    const auto text = package::WriteManifest(m);
    EXPECT_TRUE(text.ok()) << text.status();
    EXPECT_TRUE(proto::WriteFileAtomic(folder + "/manifest.json", *text).ok());
    part.folder = folder;
    part.manifest = std::move(m);
    part.manifest_sha256 = proto::Hex(proto::Sha256(*text));
    part.log_index = folders_.size();
    folders_[part.manifest_sha256] = folder;
    return part;
  }
  std::vector<assemble::Part>& experts() { return experts_; }
  const TextEncoder& encoder() const { return *encoder_; }

 private:
  static std::vector<float> Random(std::mt19937_64& random, int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) {
      value = static_cast<float>(
          static_cast<double>(random() >> 11) / 9007199254740992.0 - 0.5);
    }
    return values;
  }
  v1::ExpertManifest Begin(const std::string& id,
                           const std::string& kind) const {
    v1::ExpertManifest m;
    m.set_schema_version(1);
    m.set_id(id);
    m.set_kind(kind);
    m.set_title("tiny");
    m.mutable_domain()->set_domain("tiny");
    m.set_created_at("2026-01-01T00:00:00Z");
    m.mutable_model()->set_block("bert");
    m.mutable_model()->set_layers(2);
    m.mutable_model()->set_width(32);
    m.mutable_model()->set_ffn_width(48);
    m.mutable_model()->set_vocabulary(81);
    if (kind == "encoder") return m;
    v1::BaseReference& b = *m.mutable_base();
    b.set_id(base_.manifest.id());
    b.set_manifest_sha256(base_.manifest_sha256);
    for (const v1::FileDigest& file : base_.manifest.files()) {
      if (file.path() == "weights.safetensors") {
        b.set_weights_sha256(file.sha256());
      } else if (file.path() == "tokenizer.json") {
        b.set_tokenizer_sha256(file.sha256());
      }
    }
    return m;
  }
  void MakeBase() {
    const std::string folder = Path("base");
    testing::WriteEncoderDirectory(folder);
    std::filesystem::rename(folder + "/model.safetensors",
                            folder + "/weights.safetensors");
    base_ = Finish(folder, Begin("choir/encoder@1.0.0", "encoder"));
    auto encoder = TextEncoder::Load(folder, math::Product::kExact);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    encoder_ = *std::move(encoder);
  }

  std::string folder_;
  assemble::Part base_;
  std::vector<assemble::Part> experts_, pilots_;
  std::map<std::string, std::string> folders_;  // by manifest
  std::unique_ptr<TextEncoder> encoder_;
};

}  // namespace motet::retrieve
