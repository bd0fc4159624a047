// SPDX-License-Identifier: Apache-2.0
#include "coordinator/base_package.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/model/config.h"
#include "compose/package/package_folder.h"
#include "compose/package/safetensors.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

math::Tensor View(const std::vector<float>& values, math::Shape shape) {
  math::Tensor t;
  t.data = const_cast<float*>(values.data());
  t.shape = shape;
  return t;
}

// A safetensors file's bytes, by way of a file: there is one writer.
absl::StatusOr<std::string> AnchorBytes(
    const std::string& path, const std::vector<learn::AnchorLayer>& anchor) {
  std::vector<package::NamedTensor> tensors;
  for (size_t l = 0; l < anchor.size(); ++l) {
    const int64_t c = static_cast<int64_t>(anchor[l].mean.size());
    const std::string prefix = absl::StrCat("layers.", l, ".");
    tensors.push_back({prefix + "mean", View(anchor[l].mean, {c})});
    tensors.push_back(
        {prefix + "covariance", View(anchor[l].covariance, {c, c})});
    tensors.push_back(
        {prefix + "precision", View(anchor[l].precision, {c, c})});
  }
  MOTET_RETURN_IF_ERROR(package::WriteSafetensors(path, std::move(tensors)));
  return proto::ReadFile(path, proto::kMaxAnchorBytes);
}

std::string Readme(const BasePackage& base, const model::ModelConfig& config) {
  return absl::StrFormat(
      "# %s\n\nThe public base of a Motet federation: every expert is "
      "branched from it.\n\n- %.2f M parameters, %d layers, width %d, "
      "vocabulary %d, context %d\n- %s\n"
      "- `anchor.safetensors`: mean, covariance and precision of "
      "each layer's router inputs over public text\n- `public.jsonl`: the "
      "public text that owners mix into their batches\n",
      base.id, model::CountParameters(config) / 1e6, config.layers,
      config.width, config.vocabulary, config.max_positions, base.origin);
}

}  // namespace

absl::Status WriteBasePackage(const Federation& federation,
                              const std::string& folder,
                              const BasePackage& base,
                              const model::ModelConfig& config,
                              const model::ModelWeights& given,
                              const std::vector<learn::AnchorLayer>& anchor) {
  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id(base.id);
  m.set_kind("base");
  m.set_title("Public base");
  v1::ModelShape* shape = m.mutable_model();
  shape->set_block(config.block == model::Block::kPostNorm ? "olmo2"
                                                           : "llama");
  shape->set_layers(static_cast<uint32_t>(config.layers));
  shape->set_width(static_cast<uint32_t>(config.width));
  shape->set_ffn_width(static_cast<uint32_t>(config.ffn_width));
  shape->set_vocabulary(static_cast<uint32_t>(config.vocabulary));
  m.mutable_domain()->set_domain("public");
  m.mutable_domain()->set_documents(base.public_documents.size());
  m.mutable_domain()->set_tokens(static_cast<uint64_t>(base.anchor_tokens));
  *m.mutable_training() = base.training;
  m.mutable_licence()->set_spdx(base.spdx);

  model::ModelWeights weights = given;
  model::VisitWeights(config, weights,
                      [&](const std::string& name, const math::Shape&,
                          math::Tensor& tensor) {
                        content.weights.push_back({name, tensor});
                      });
  content.files["config.json"] = model::WriteConfig(config);
  content.files["tokenizer.json"] = base.tokenizer_json;
  MOTET_ASSIGN_OR_RETURN(
      content.files["anchor.safetensors"],
      AnchorBytes(federation.Path("work/anchor.safetensors"), anchor));
  std::string& lines = content.files["public.jsonl"];
  for (const std::string& document : base.public_documents) {
    absl::StrAppend(&lines, JsonText(nlohmann::json{{"text", document}}), "\n");
  }
  content.readme = Readme(base, config);
  MOTET_ASSIGN_OR_RETURN(std::string key,
                         proto::ReadFile(federation.tls.private_key,
                                         proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(std::string certificate,
                         proto::ReadFile(federation.tls.certificate,
                                         proto::kMaxCertificateBytes));
  return package::BuildPackage(folder, content, key, certificate);
}

absl::Status CheckNoBase(const Federation& federation,
                         const std::string& command) {
  const std::string folder = federation.Path("base");
  if (!proto::Exists(folder)) return absl::OkStatus();
  return proto::Error(absl::StatusCode::kAlreadyExists, command,
                      absl::StrCat("a base in ", folder),
                      "a federation without one",
                      "experts belong to one base; make another federation");
}

std::vector<std::string> SampleDocuments(
    const std::vector<std::string>& documents, int64_t max_bytes,
    uint64_t seed) {
  std::vector<size_t> order(documents.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // Fisher-Yates by a counter hash, so that it does not depend on the
  // library's shuffle.
  for (size_t i = order.size(); i > 1; --i) {
    uint64_t x = seed * 0x9E3779B97F4A7C15ull + i;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    std::swap(order[i - 1], order[(x ^ (x >> 31)) % i]);
  }
  std::vector<std::string> sample;
  int64_t bytes = 0;
  for (size_t i : order) {
    if (bytes >= max_bytes) break;
    sample.push_back(documents[i]);
    bytes += static_cast<int64_t>(documents[i].size());
  }
  return sample;
}

}  // namespace motet::coordinator
