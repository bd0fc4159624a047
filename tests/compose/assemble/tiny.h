// SPDX-License-Identifier: Apache-2.0
// A whole federation in a temporary folder: a random tiny base and experts as
// real signed packages, for the tests of assemble and measure. Header-only,
// so that both folders' programs can include it.
#pragma once

#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/assemble/composition.h"
#include "compose/learn/hash.h"
#include "compose/model/tokenizer.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/package_folder.h"
#include "gtest/gtest.h"
#include "proto/files.h"
#include "proto/identity.h"

namespace motet::assemble {

struct TinyOptions {
  model::Block block = model::Block::kPostNorm;
  int experts = 4;
  // FFN width of each expert; the base's is 24.
  std::vector<int64_t> widths = {24, 24, 40, 16};
  double smoothing = 0.8;
  uint64_t seed = 3;
  // Experts are whole branches of the base (of `kind`), each with another
  // half of its tensors trained, with Fisher information.
  bool dense = false;
  std::string kind = "dense";
  // Of each expert, in place of `dense` and `kind`: "ffn" or a whole model's.
  std::vector<std::string> kinds;
  double noise = 0.05;  // what training changed
  bool copies = false;  // FFN experts are the base's FFN
  double mean_noise = 0;  // that FFN experts say is on their means
  // Of a pre-norm base; a post-norm one has its family's.
  model::QkNorm qk_norm = model::QkNorm::kNone;
  bool qkv_bias = false;
  bool means = true;    // dense: published, of the base's router inputs
  int alone = 0;  // FFN experts, from the first, that were trained alone
  // FFN experts score the base's public documents (there are 8 then): expert
  // e puts 2e first, then 2e + 1.
  bool proxy = false;
};

class TinyFederation {
 public:
  explicit TinyFederation(const TinyOptions& options = {})
      : options_(options), random_(options.seed) {
    folder_ = absl::StrCat(testing::TempDir(), "tinyXXXXXX");
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    authority_ = *proto::MakeAuthority("choir");
    // Sizes so small are faster on one thread, more so beside other tests.
    math::SetThreads(1);
    model::TokenizerTrainOptions train;
    train.vocabulary = 290;
    tokenizer_json_ = *model::TrainTokenizer(Documents(), train);
    MakeBase();
    for (int e = 0; e < options.experts; ++e) {
      KindOf(e) == "ffn" ? MakeExpert(e) : MakeDense(e);
    }
  }
  ~TinyFederation() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TinyFederation(const TinyFederation&) = delete;
  TinyFederation& operator=(const TinyFederation&) = delete;
  // A path in the federation's folder, removed with it.
  std::string Path(const std::string& name) const {
    return folder_ + "/" + name;
  }

  static std::vector<std::string> Documents() {
    return {"int main() { return 0; } // the smallest program\n",
            "The licensee may copy and distribute the work under terms.\n",
            "Use the option -v to print more, and -q to print less.\n",
            "A choir of voices sings, and any voice can be silent.\n"};
  }
  static std::vector<std::string> PublicDocuments() {
    std::vector<std::string> texts;
    for (int i = 0; i < 8; ++i) {
      texts.push_back(absl::StrCat("public text of number ", i));
    }
    return texts;
  }
  static const char* Domain(int e) {
    static const char* const kDomains[] = {"code", "legal", "manual",
                                           "health"};
    return kDomains[e % 4];
  }

  const model::ModelConfig& config() const { return config_; }
  const std::string& authority_pem() const {
    return authority_.certificate_pem;
  }
  const Part& base() const { return base_; }
  const std::vector<Part>& experts() const { return experts_; }
  // Every tensor of the base and of dense expert e.
  const std::vector<package::NamedTensor>& base_weights() const {
    return base_weights_;
  }
  const std::vector<package::NamedTensor>& branch(int e) const {
    return branches_[e];
  }
  std::vector<Part> Experts(const std::vector<int>& which) const {
    std::vector<Part> parts;
    for (const int e : which) parts.push_back(experts_[e]);
    return parts;
  }
  // router: a kind, or the name of a variant below.
  static Recipe RecipeFor(const std::vector<Part>& parts,
                          const std::string& router = "anchored") {
    Recipe recipe;
    recipe.name = "demo";
    for (const Part& part : parts) recipe.experts.push_back(part.manifest.id());
    recipe.router.kind = router;
    if (router == "nulls") {
      recipe.router.kind = "topk";
      recipe.router.k = 3;
      recipe.router.null_experts = 2;
    } else if (router == "shared" || router == "shared_nulls") {
      recipe.router.kind = "topk";
      recipe.router.k = router == "shared" ? 1 : 2;
      recipe.router.shared = true;
      recipe.router.null_experts = router == "shared" ? 0 : 2;
    } else if (router == "switch") {
      recipe.router.kind = "anchored";
      recipe.router.mixing = router;
    } else if (router == "prefix") {
      recipe.router.kind = "anchored";
      recipe.router.prefix_mean = true;
    } else if (router == "rank") {
      recipe.router.kind = "anchored";
      recipe.router.gate_rank = 4;
    } else if (router == "pooled") {
      recipe.router.kind = "anchored";
      recipe.router.covariance = router;
    } else if (router == "dume" || router == "dume_topp" ||
               router == "dume_shared") {
      recipe.method = "dume";
      recipe.router.kind = router == "dume_topp" ? "topp" : "topk";
      recipe.router.shared = router == "dume_shared";
    }
    return recipe;
  }
  // The lock over all experts, which must fit.
  v1::CompositionLock Lock(const std::string& router = "anchored") const {
    const Plan plan = MakePlan(RecipeFor(experts_, router), base_, experts_);
    for (const auto& problem : plan.problems) ADD_FAILURE() << problem;
    return plan.lock;
  }
  PackageFolder FolderOf() const {
    auto folders = folders_;
    return [folders](const std::string& sha256)
               -> absl::StatusOr<std::string> {
      const auto it = folders.find(sha256);
      if (it == folders.end()) return absl::NotFoundError(sha256);
      return it->second;
    };
  }
  std::unique_ptr<Composition> Load(const v1::CompositionLock& lock,
                                    const LoadOptions& options = {}) const {
    auto composition = LoadComposition(lock, FolderOf(), options);
    EXPECT_TRUE(composition.ok()) << composition.status();
    return composition.ok() ? *std::move(composition) : nullptr;
  }
  std::vector<int32_t> Ids(int n, uint64_t seed = 7) const {
    std::mt19937_64 random(seed);
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) {
      ids.push_back(static_cast<int32_t>(random() % config_.vocabulary));
    }
    return ids;
  }

 private:
  // An expert's own, or the base's.
  math::Tensor Ffn(const std::string& layer, const std::string& part,
                   const math::Shape& shape) {
    const math::Tensor own = Random(shape, 0.3);
    if (!options_.copies) return own;
    for (const package::NamedTensor& from : base_weights_) {
      if (from.name == "model." + layer + "mlp." + part + "_proj.weight") {
        return from.tensor;
      }
    }
    ADD_FAILURE() << "the base has no " << layer << part;
    return own;
  }
  std::string KindOf(int e) const {
    if (!options_.kinds.empty()) return options_.kinds[e];
    return options_.dense ? options_.kind : "ffn";
  }

  math::Tensor Random(const math::Shape& shape, double scale,
                      double mean = 0) {
    std::normal_distribution<double> normal(mean, scale);
    numbers_.push_back(std::make_unique<std::vector<float>>(shape.size()));
    for (float& x : *numbers_.back()) x = static_cast<float>(normal(random_));
    return {numbers_.back()->data(), math::DType::kF32, math::Device::kCpu,
            shape};
  }

  struct Signer {
    std::string private_pem, certificate_pem;
  };
  Signer Sign(const proto::SpiffeId& id) {
    const proto::KeyPair key = *proto::MakeKey();
    const std::string request = *proto::MakeRequest(key.private_pem, id);
    return {key.private_pem,
            *proto::Issue(authority_, request,
                          proto::InspectRequest(request)->fingerprint)};
  }

  void SetShape(v1::ModelShape& shape, int64_t ffn_width) {
    shape.set_block(config_.block == model::Block::kPostNorm ? "olmo2"
                                                             : "llama");
    shape.set_layers(static_cast<uint32_t>(config_.layers));
    shape.set_width(static_cast<uint32_t>(config_.width));
    shape.set_ffn_width(static_cast<uint32_t>(ffn_width));
    shape.set_vocabulary(static_cast<uint32_t>(config_.vocabulary));
  }

  Part Build(const std::string& name, const package::PackageContent& content,
             const Signer& signer) {
    const std::string folder = folder_ + "/" + name;
    const absl::Status built = package::BuildPackage(
        folder, content, signer.private_pem, signer.certificate_pem);
    EXPECT_TRUE(built.ok()) << built;
    auto opened = package::OpenPackage(folder, authority_.certificate_pem);
    EXPECT_TRUE(opened.ok()) << opened.status();
    Part part;
    part.folder = folder;
    part.manifest = opened->manifest;
    part.manifest_sha256 = opened->manifest_sha256;
    part.log_index = folders_.size();
    folders_[part.manifest_sha256] = folder;
    return part;
  }

  void MakeBase() {
    config_.block = options_.block;
    if (config_.block == model::Block::kPreNorm) {
      config_.qk_norm = options_.qk_norm;
    }
    config_.qkv_bias = options_.qkv_bias;
    config_.vocabulary = (*model::Tokenizer::Parse(tokenizer_json_))
                             ->vocabulary();
    config_.width = 16;
    config_.layers = 2;
    config_.heads = 2;
    config_.kv_heads = options_.block == model::Block::kPostNorm ? 2 : 1;
    config_.head_dim = 8;
    config_.ffn_width = 24;
    config_.max_positions = 256;
    const int64_t width = config_.width;

    package::PackageContent content;
    v1::ExpertManifest& m = content.manifest;
    m.set_id("choir/base@1.0.0");
    m.set_kind("base");
    m.set_title("Public base");
    SetShape(*m.mutable_model(), config_.ffn_width);
    m.mutable_domain()->set_domain("public");
    m.mutable_domain()->set_tokens(1000);
    m.mutable_training()->set_method("dense");
    model::ModelWeights weights;
    model::VisitWeights(config_, weights,
                        [&](const std::string& name, const math::Shape& shape,
                            math::Tensor&) {
                          const bool norm = shape.rank == 1;
                          content.weights.push_back(
                              {name, Random(shape, norm ? 0.1 : 0.3,
                                            norm ? 1.0 : 0.0)});
                        });
    base_weights_ = content.weights;
    content.files["config.json"] = model::WriteConfig(config_);
    content.files["tokenizer.json"] = tokenizer_json_;
    content.files["public.jsonl"] = "{\"text\": \"public text\"}\n";
    if (options_.proxy) {
      content.files["public.jsonl"].clear();
      for (const std::string& text : PublicDocuments()) {
        absl::StrAppend(&content.files["public.jsonl"], "{\"text\": \"", text,
                        "\"}\n");
      }
    }
    std::vector<package::NamedTensor> anchor;
    for (int64_t l = 0; l < config_.layers; ++l) {
      const std::string layer = absl::StrCat("layers.", l, ".");
      // Symmetric and positive, as an inverse covariance is.
      const math::Tensor a = Random({width, width}, 0.5);
      math::Tensor p = Random({width, width}, 0);
      for (int64_t i = 0; i < width; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          double sum = i == j ? 0.5 : 0;
          for (int64_t k = 0; k < width; ++k) {
            sum += double{a.f32()[i * width + k]} * a.f32()[j * width + k] /
                   static_cast<double>(width);
          }
          p.f32()[i * width + j] = static_cast<float>(sum);
        }
      }
      anchor.push_back({layer + "mean", Random({width}, 0.3)});
      anchor.push_back({layer + "covariance", p});
      anchor.push_back({layer + "precision", p});
    }
    const std::string path = folder_ + "/anchor.safetensors";
    EXPECT_TRUE(package::WriteSafetensors(path, anchor).ok());
    content.files["anchor.safetensors"] = *proto::ReadFile(path, 1 << 20);
    content.readme = "# base\n";
    base_ = Build("base", content, Sign({"choir", "coordinator", "", "main"}));
  }

  // Id, base, domain and licence.
  void Describe(int e, v1::ExpertManifest& m) {
    const std::string domain = Domain(e);
    m.set_id(absl::StrCat(domain, ".example/", domain, "@1.0.", e / 4));
    m.set_title(domain);
    v1::BaseReference& reference = *m.mutable_base();
    reference.set_id(base_.manifest.id());
    reference.set_manifest_sha256(base_.manifest_sha256);
    for (const v1::FileDigest& file : base_.manifest.files()) {
      if (file.path() == "weights.safetensors") {
        reference.set_weights_sha256(file.sha256());
      }
      if (file.path() == "tokenizer.json") {
        reference.set_tokenizer_sha256(file.sha256());
      }
    }
    m.mutable_domain()->set_domain(domain);
    m.mutable_domain()->set_documents(10);
    m.mutable_licence()->set_spdx("CC-BY-4.0");
    if (domain == "legal") {
      m.mutable_licence()->add_forbidden_purposes("advertising");
    }
  }

  void MakeDense(int e) {
    package::PackageContent content;
    v1::ExpertManifest& m = content.manifest;
    Describe(e, m);
    m.set_kind(KindOf(e));
    // Another width than the base's: FFNs that have nothing of its.
    const bool sized = m.kind() == "sized";
    const int64_t ffn =
        sized ? options_.widths[e % options_.widths.size()] : config_.ffn_width;
    SetShape(*m.mutable_model(), ffn);
    m.mutable_training()->set_method("dense");
    if (options_.means) Means(e, *m.mutable_domain()->mutable_anchored());
    std::vector<package::NamedTensor> branch, fisher;
    for (size_t i = 0; i < base_weights_.size(); ++i) {
      const package::NamedTensor& from = base_weights_[i];
      math::Shape shape = from.tensor.shape;
      for (int d = 0; sized && d < shape.rank; ++d) {
        if (from.name.find(".mlp.") == std::string::npos) continue;
        if (shape.dim[d] == config_.ffn_width) shape.dim[d] = ffn;
      }
      const bool other = !(shape == from.tensor.shape);
      math::Tensor to = Random(shape, other ? 0.3 : options_.noise);
      for (int64_t k = 0; !other && k < to.size(); ++k) {
        // Every other tensor, for each expert others.
        const float tau = (i + e) % 2 == 0 ? to.f32()[k] : 0.0f;
        to.f32()[k] = from.tensor.f32()[k] + tau;
      }
      branch.push_back({from.name, to});
      math::Tensor f = Random(shape, 1);
      for (int64_t k = 0; k < f.size(); ++k) f.f32()[k] *= f.f32()[k];
      fisher.push_back({from.name, f});
    }
    package::DenseContent split =
        package::SplitDense(branch, base_.manifest);
    content.weights = split.weights;
    for (v1::TensorDigest& t : split.base_tensors) {
      *m.add_base_tensors() = std::move(t);
    }
    content.tensor_files[package::kFisherFile] = fisher;
    content.readme = "# dense\n";
    branches_.resize(e + 1);
    branches_[e] = branch;
    experts_.push_back(Build(
        absl::StrCat("expert", e), content,
        Sign({"choir", "node", absl::StrCat(Domain(e), ".example"), "one"})));
  }

  void Means(int e, v1::AnchoredStatistics& a) {
    std::mt19937_64 random(static_cast<uint64_t>(e) + 41);
    std::normal_distribution<float> normal;
    for (int64_t l = 0; l < config_.layers; ++l) {
      v1::LayerStatistics& s = *a.add_layers();
      for (int64_t c = 0; c < config_.width; ++c) {
        s.add_base_mean(normal(random));
        s.add_pair_mean(s.base_mean(static_cast<int>(c)));
      }
    }
  }

  void MakeExpert(int e) {
    const std::string domain = Domain(e);
    const std::string owner = domain + ".example";
    const int64_t width = config_.width;
    const int64_t ffn = options_.widths[e % options_.widths.size()];
    package::PackageContent content;
    v1::ExpertManifest& m = content.manifest;
    Describe(e, m);
    m.set_kind("ffn");
    SetShape(*m.mutable_model(), ffn);
    m.set_frozen_sha256(package::FrozenDigest(base_.manifest));
    v1::AnchoredStatistics& a = *m.mutable_domain()->mutable_anchored();
    a.set_smoothing(options_.smoothing);
    a.set_gate_quantile(0.97);
    a.set_noise(options_.mean_noise);
    const auto further = [&](double smoothing, bool prefix, double quantile,
                             float threshold, uint32_t rank = 0) {
      v1::GateThresholds& gate = *a.add_gates();
      gate.set_rank(rank);
      gate.set_smoothing(smoothing);
      gate.set_prefix_mean(prefix);
      gate.set_quantile(quantile);
      for (int64_t l = 0; l < config_.layers; ++l) {
        gate.add_thresholds(threshold);
      }
    };
    further(options_.smoothing, false, 0.9, 6.0f);
    further(0, true, 0.97, 9.0f);
    further(options_.smoothing, false, 0.97, 3.0f, 4);
    m.mutable_training()->set_method("flexolmo");
    if (e < options_.alone) {
      m.mutable_router_row()->set_source("domain_mean");
    }
    std::normal_distribution<double> normal(0, 0.2);
    for (int64_t l = 0; l < config_.layers; ++l) {
      v1::LayerStatistics& s = *a.add_layers();
      for (int64_t c = 0; c < width; ++c) {
        s.add_base_mean(static_cast<float>(normal(random_)));
        s.add_pair_mean(s.base_mean(static_cast<int>(c)) * 0.5f);
      }
      s.set_threshold(10.0f);  // passes some tokens, refuses others
      const std::string layer = absl::StrCat("layers.", l, ".");
      content.weights.push_back(
          {layer + "mlp.gate_proj.weight", Ffn(layer, "gate", {ffn, width})});
      content.weights.push_back(
          {layer + "mlp.up_proj.weight", Ffn(layer, "up", {ffn, width})});
      content.weights.push_back(
          {layer + "mlp.down_proj.weight", Ffn(layer, "down", {width, ffn})});
      content.weights.push_back({layer + "router.row", Random({width}, 0.5)});
      content.weights.push_back({layer + "router.bias", Random({1}, 1)});
    }
    std::vector<int64_t> ids;
    std::vector<float> scores;
    if (options_.proxy) {
      for (const std::string& text : PublicDocuments()) {
        const int i = static_cast<int>(ids.size());
        ids.push_back(static_cast<int64_t>(learn::Fnv1a(text)));
        scores.push_back(i == 2 * e ? 2.0f : i == 2 * e + 1 ? 1.0f : -1.0f);
      }
      math::Tensor documents, values;
      documents.data = ids.data();
      documents.dtype = math::DType::kI64;
      values.data = scores.data();
      documents.shape = values.shape = {static_cast<int64_t>(ids.size())};
      content.tensor_files["proxy.safetensors"] = {{"documents", documents},
                                                   {"scores", values}};
    }
    content.files["statistics.safetensors"] = Moments(e);
    v1::SecondMoments& moments = *m.mutable_domain()->mutable_second_moments();
    moments.set_documents(10);
    moments.set_tokens(200);
    moments.set_min_documents(10);
    content.readme = "# " + domain + "\n";
    experts_.push_back(Build(absl::StrCat("expert", e), content,
                             Sign({"choir", "node", owner, "one"})));
  }

  // Sums over 200 random rows around a mean of the expert's own.
  std::string Moments(int e) {
    std::mt19937_64 random(static_cast<uint64_t>(e) + 99);
    std::normal_distribution<double> normal;
    const auto width = static_cast<size_t>(config_.width);
    std::vector<std::vector<double>> numbers;
    for (int64_t l = 0; l < config_.layers; ++l) {
      std::vector<double> mean(width), products(width * (width + 1) / 2);
      std::vector<double> sum(width);
      for (double& x : mean) x = 0.5 * normal(random);
      for (int n = 0; n < 200; ++n) {
        std::vector<double> x(width);
        for (size_t i = 0; i < width; ++i) x[i] = mean[i] + normal(random);
        for (size_t i = 0, at = 0; i < width; ++i) {
          sum[i] += x[i];
          for (size_t j = 0; j <= i; ++j) products[at++] += x[i] * x[j];
        }
      }
      numbers.push_back(std::move(products));
      numbers.push_back(std::move(sum));
    }
    std::vector<package::NamedTensor> tensors;
    for (size_t i = 0; i < numbers.size(); ++i) {
      math::Tensor t;
      t.data = numbers[i].data();
      t.dtype = math::DType::kF64;
      t.shape = {static_cast<int64_t>(numbers[i].size())};
      tensors.push_back({absl::StrCat("layers.", i / 2,
                                      i % 2 == 0 ? ".products" : ".sum"),
                         t});
    }
    const std::string path = folder_ + "/statistics.safetensors";
    EXPECT_TRUE(package::WriteSafetensors(path, tensors).ok());
    return *proto::ReadFile(path, 1 << 20);
  }

  TinyOptions options_;
  std::mt19937_64 random_;
  std::string folder_;
  proto::Authority authority_;
  std::string tokenizer_json_;
  model::ModelConfig config_;
  Part base_;
  std::vector<Part> experts_;
  std::vector<package::NamedTensor> base_weights_;
  std::vector<std::vector<package::NamedTensor>> branches_;
  std::map<std::string, std::string> folders_;
  std::vector<std::unique_ptr<std::vector<float>>> numbers_;
};

// Logits [n,V] of ids.
inline std::vector<float> LogitsOf(const model::Decoder& decoder,
                                   const std::vector<int32_t>& ids,
                                   math::ExpertMask allowed) {
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const model::SequenceInput inputs[] = {{ids, nullptr, allowed}};
  const model::Batch batch(inputs);
  const math::Tensor logits =
      decoder.Logits(exec, decoder.Forward(exec, batch));
  return {logits.f32(), logits.f32() + logits.size()};
}

// The same of whatever answers.
inline std::vector<float> LogitsOf(const model::Scorer& scorer,
                                   const std::vector<int32_t>& ids) {
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const model::ScorerInput inputs[] = {{ids, nullptr}};
  const model::RowRange all[] = {{0, static_cast<int64_t>(ids.size())}};
  std::vector<float> logits;
  scorer.Run(exec, inputs, all, [&](int64_t, const math::Tensor& rows) {
    logits.insert(logits.end(), rows.f32(), rows.f32() + rows.size());
    return true;
  });
  return logits;
}

}  // namespace motet::assemble
