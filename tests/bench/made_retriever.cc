// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/made_retriever.h"

#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/package/manifest.h"
#include "compose/package/peft.h"
#include "compose/package/safetensors.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::bench {
namespace {

namespace fs = std::filesystem;

struct Package {
  std::string folder, manifest_sha256;
  v1::ExpertManifest manifest;
  std::string Sha256Of(const std::string& path) const {
    for (const v1::FileDigest& file : manifest.files()) {
      if (file.path() == path) return file.sha256();
    }
    return "";
  }
};

v1::ExpertManifest Begin(const std::string& id, const std::string& kind,
                         const model::EncoderConfig& config,
                         const Package* base) {
  v1::ExpertManifest m;
  m.set_schema_version(1);
  m.set_id(id);
  m.set_kind(kind);
  m.set_title("made for a benchmark");
  m.set_created_at("2026-01-01T00:00:00Z");
  m.mutable_model()->set_block("bert");
  m.mutable_model()->set_layers(static_cast<uint32_t>(config.layers));
  m.mutable_model()->set_width(static_cast<uint32_t>(config.width));
  m.mutable_model()->set_ffn_width(static_cast<uint32_t>(config.ffn_width));
  m.mutable_model()->set_vocabulary(static_cast<uint32_t>(config.vocabulary));
  if (base == nullptr) return m;
  v1::BaseReference& b = *m.mutable_base();
  b.set_id(base->manifest.id());
  b.set_manifest_sha256(base->manifest_sha256);
  b.set_weights_sha256(base->Sha256Of("weights.safetensors"));
  b.set_tokenizer_sha256(base->Sha256Of("tokenizer.json"));
  return m;
}

// With the digests of what lies in the folder, written beside it.
absl::StatusOr<Package> Finish(const std::string& folder,
                               v1::ExpertManifest m) {
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(folder + "/README.md", "made\n"));
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    files[fs::relative(entry.path(), folder).string()] = entry.path();
  }
  for (const auto& [path, whole] : files) {
    v1::FileDigest& file = *m.add_files();
    file.set_path(path);
    file.set_size_bytes(fs::file_size(whole));
    MOTET_ASSIGN_OR_RETURN(const proto::Digest digest,
                           proto::Sha256File(whole));
    file.set_sha256(proto::Hex(digest));
    if (!path.ends_with(".safetensors")) continue;
    MOTET_ASSIGN_OR_RETURN(const auto tensors,
                           package::SafetensorsFile::Open(whole));
    for (const auto& tensor : package::TensorTable(*tensors)) {
      *m.add_tensors() = tensor;
    }
  }
  MOTET_ASSIGN_OR_RETURN(const std::string text, package::WriteManifest(m));
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(folder + "/manifest.json", text));
  return Package{folder, proto::Hex(proto::Sha256(text)), std::move(m)};
}

absl::StatusOr<Package> Base(const std::string& encoder,
                             const std::string& folder,
                             const model::EncoderConfig& config) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder + "/1_Pooling"));
  const std::pair<const char*, const char*> files[] = {
      {"model.safetensors", "weights.safetensors"},
      {"config.json", "config.json"},
      {"tokenizer.json", "tokenizer.json"},
      {"modules.json", "modules.json"},
      {"1_Pooling/config.json", "1_Pooling/config.json"},
      {"sentence_bert_config.json", "sentence_bert_config.json"}};
  for (const auto& [from, to] : files) {
    const std::string source = absl::StrCat(encoder, "/", from);
    std::error_code error;
    if (proto::Exists(source)) {
      fs::copy_file(source, absl::StrCat(folder, "/", to), error);
    }
    if (error) return absl::InternalError(absl::StrCat(source, ": no copy"));
  }
  return Finish(folder,
                Begin("made/encoder@1.0.0", "encoder", config, nullptr));
}

std::string Owner(int e) { return absl::StrCat("owner", e, ".example"); }

absl::StatusOr<Package> Adapter(int e, const std::string& folder,
                                const model::EncoderConfig& config,
                                const Package& base) {
  model::Lora lora;
  lora.config.rank = 8;
  lora.config.alpha = 32;
  lora.config.targets = {"query", "value"};
  std::vector<std::vector<float>> values;
  uint64_t state = static_cast<uint64_t>(e) + 1;
  model::VisitLora(
      config, lora,
      [&](const std::string&, const math::Shape& want, math::Tensor& tensor) {
        values.emplace_back(static_cast<size_t>(want.size()));
        for (float& value : values.back()) {
          state = state * 6364136223846793005 + 1442695040888963407;
          value = 0.02f * (static_cast<float>(state >> 40) / (1 << 24) - 0.5f);
        }
        tensor.data = values.back().data();
        tensor.shape = want;
      });
  MOTET_RETURN_IF_ERROR(package::SaveLora(folder, config, lora));
  v1::ExpertManifest m =
      Begin(Owner(e) + "/adapter@1.0.0", "embedding_adapter", config, &base);
  m.mutable_domain()->set_domain(absl::StrCat("domain", e));
  m.mutable_licence()->set_spdx("CC-BY-4.0");
  v1::AdapterRecord& record = *m.mutable_adapter();
  record.set_rank(8);
  record.set_alpha(32);
  record.add_targets("query");
  record.add_targets("value");
  record.set_queries(100);
  return Finish(folder, std::move(m));
}

// The owner's library: a pilot of each expert, the vector of one query.
absl::StatusOr<Package> Pilots(int owner, const std::string& folder,
                               const retrieve::TextEncoder& encoder,
                               const Package& base,
                               const std::vector<Package>& experts,
                               std::vector<float>* rows) {
  v1::ExpertManifest m = Begin(Owner(owner) + "/pilots-adapter@1.0.0", "pilots",
                               encoder.config(), &base);
  v1::PilotRecord& record = *m.mutable_pilots();
  record.set_of(experts[static_cast<size_t>(owner)].manifest.id());
  record.set_min_queries(20);
  record.set_scorings(80);
  std::vector<std::string> queries;
  for (int e = 0; e < kMadeExperts; ++e) {
    const Package& scored = experts[static_cast<size_t>(e)];
    v1::PilotExpert& expert = *record.add_experts();
    expert.set_id(scored.manifest.id());
    expert.set_weights_sha256(scored.Sha256Of("adapter_model.safetensors"));
    v1::PilotGroup& group = *record.add_groups();
    group.set_expert(scored.manifest.id());
    group.set_queries(20);
    queries.push_back(MadeQuery(1000 + kMadeExperts * owner + e));
  }
  MOTET_ASSIGN_OR_RETURN(retrieve::Vectors vectors, encoder.Encode(queries));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  math::Tensor tensor;
  tensor.data = vectors.values.data();
  tensor.shape = {kMadeExperts, encoder.width()};
  MOTET_RETURN_IF_ERROR(package::WriteSafetensors(
      folder + "/weights.safetensors", {{"pilots", tensor}}));
  *rows = std::move(vectors.values);
  return Finish(folder, std::move(m));
}

}  // namespace

std::string MadeQuery(int n) {
  static constexpr const char* kWords[] = {
      "patients", "cell",      "court",    "sort",   "river",  "graph",
      "licence",  "infection", "vector",   "appeal", "risk",   "protein",
      "shortest", "path",      "contract", "blood",  "memory", "search",
      "water",    "treatment", "statute",  "matrix", "energy", "children",
      "queue",    "evidence",  "growth",   "binary", "heart",  "district",
      "effect"};
  std::string text = "how does";
  uint64_t state = static_cast<uint64_t>(n) * 2654435761u + 1;
  for (int i = 0; i < 10; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    absl::StrAppend(&text, " ", kWords[(state >> 33) % std::size(kWords)]);
  }
  return text;
}

absl::StatusOr<MadeRetriever> MakeRetriever(const std::string& encoder_folder,
                                            const std::string& folder,
                                            math::Product product) {
  fs::remove_all(folder);
  MOTET_ASSIGN_OR_RETURN(const auto encoder,
                         retrieve::TextEncoder::Load(encoder_folder, product));
  std::map<std::string, std::string> folders;
  const auto at = [&](const std::string& name) {
    return absl::StrCat(folder, "/", name);
  };
  MOTET_ASSIGN_OR_RETURN(const Package base,
                         Base(encoder_folder, at("base"), encoder->config()));
  folders[base.manifest_sha256] = base.folder;
  v1::CompositionLock lock;
  lock.set_schema_version(1);
  lock.set_name("made");
  lock.set_method("router_retriever");
  lock.set_exclusion("exact");
  v1::BaseReference& b = *lock.mutable_base();
  b.set_id(base.manifest.id());
  b.set_manifest_sha256(base.manifest_sha256);
  b.set_weights_sha256(base.Sha256Of("weights.safetensors"));
  b.set_tokenizer_sha256(base.Sha256Of("tokenizer.json"));
  std::vector<Package> experts;
  for (int e = 0; e < kMadeExperts; ++e) {
    MOTET_ASSIGN_OR_RETURN(
        Package made,
        Adapter(e, at(absl::StrCat("adapter", e)), encoder->config(), base));
    folders[made.manifest_sha256] = made.folder;
    v1::LockedExpert& locked = *lock.add_experts();
    locked.set_id(made.manifest.id());
    locked.set_manifest_sha256(made.manifest_sha256);
    locked.set_weights_sha256(made.Sha256Of("adapter_model.safetensors"));
    locked.set_domain(made.manifest.domain().domain());
    *locked.mutable_licence() = made.manifest.licence();
    experts.push_back(std::move(made));
  }
  MadeRetriever out;
  v1::RetrieverLock& how = *lock.mutable_retriever();
  how.set_similarity("cosine");
  how.set_aggregate("mean");
  for (int e = 0; e < kMadeExperts; ++e) {
    std::vector<float> rows;
    MOTET_ASSIGN_OR_RETURN(const Package made,
                           Pilots(e, at(absl::StrCat("pilots", e)), *encoder,
                                  base, experts, &rows));
    folders[made.manifest_sha256] = made.folder;
    v1::LockedPilots& locked = *how.add_pilots();
    locked.set_id(made.manifest.id());
    locked.set_manifest_sha256(made.manifest_sha256);
    locked.set_weights_sha256(made.Sha256Of("weights.safetensors"));
    locked.set_of(made.manifest.pilots().of());
    out.pilots.insert(out.pilots.end(), rows.begin(), rows.end());
    for (int other = 0; other < kMadeExperts; ++other) {
      out.experts.push_back(other + 1);
    }
  }
  MOTET_ASSIGN_OR_RETURN(
      out.retriever,
      retrieve::Retriever::Load(
          lock,
          [&](const std::string& sha256) -> absl::StatusOr<std::string> {
            return folders.at(sha256);
          },
          product));
  return out;
}

}  // namespace motet::bench
