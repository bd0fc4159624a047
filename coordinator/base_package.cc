// SPDX-License-Identifier: Apache-2.0
#include "coordinator/base_package.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/model/config.h"
#include "compose/package/package_folder.h"
#include "compose/package/safetensors.h"
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
  return proto::ReadFile(path, proto::kMaxManifestBytes);
}

std::string Readme(const BasePackage& base, const model::ModelConfig& config,
                   const learn::TrainResult& result) {
  return absl::StrFormat(
      "# %s\n\nThe public base of a Motet federation: every expert is "
      "branched from it.\n\n- %.2f M parameters, %d layers, width %d, "
      "vocabulary %d, context %d\n- trained on %d tokens of public text in "
      "%d steps\n- `anchor.safetensors`: mean, covariance and precision of "
      "each layer's router inputs over public text\n- `public.jsonl`: the "
      "public text that owners mix into their batches\n",
      base.id, model::CountParameters(config) / 1e6, config.layers,
      config.width, config.vocabulary, config.max_positions, result.tokens,
      result.steps);
}

}  // namespace

absl::Status WriteBasePackage(const Federation& federation,
                              const std::string& folder,
                              const BasePackage& base,
                              const learn::OwnedModel& model,
                              const std::vector<learn::AnchorLayer>& anchor,
                              const learn::TrainOptions& options,
                              const learn::TrainResult& result) {
  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id(base.id);
  m.set_kind("base");
  m.set_title("Public base");
  v1::ModelShape* shape = m.mutable_model();
  const model::ModelConfig& config = model.config;
  shape->set_block(config.block == model::Block::kPostNorm ? "olmo2"
                                                           : "llama");
  shape->set_layers(static_cast<uint32_t>(config.layers));
  shape->set_width(static_cast<uint32_t>(config.width));
  shape->set_ffn_width(static_cast<uint32_t>(config.ffn_width));
  shape->set_vocabulary(static_cast<uint32_t>(config.vocabulary));
  m.mutable_domain()->set_domain("public");
  m.mutable_domain()->set_documents(base.public_documents.size());
  v1::TrainingRecord* training = m.mutable_training();
  training->set_method("dense");
  training->set_steps(result.steps);
  training->set_tokens(result.tokens);
  training->set_seed(options.seed);
  training->set_software("motet " MOTET_VERSION);
  training->set_seconds(result.seconds);
  training->set_loss_every(result.loss_every);
  for (double loss : result.loss_curve) training->add_loss_curve(loss);
  auto& hyper = *training->mutable_hyper_parameters();
  hyper["learning_rate"] = options.learning_rate;
  hyper["weight_decay"] = options.weight_decay;
  hyper["batch_sequences"] = options.batch_sequences;
  hyper["sequence_tokens"] = options.sequence_tokens;
  m.mutable_licence()->set_spdx("LicenseRef-federation-public");

  model::ModelWeights weights = model.weights;
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
    absl::StrAppend(&lines, nlohmann::json{{"text", document}}.dump(), "\n");
  }
  content.readme = Readme(base, config, result);
  MOTET_ASSIGN_OR_RETURN(std::string key,
                         proto::ReadFile(federation.tls.private_key,
                                         proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(std::string certificate,
                         proto::ReadFile(federation.tls.certificate,
                                         proto::kMaxCertificateBytes));
  return package::BuildPackage(folder, content, key, certificate);
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
