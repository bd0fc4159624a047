// SPDX-License-Identifier: Apache-2.0
#include "node/expert_package.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/hash.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_proxy.h"
#include "compose/package/manifest_training.h"
#include "compose/package/package_folder.h"
#include "node/plan_check.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::node {
namespace {

std::vector<package::NamedTensor> Tensors(const learn::OwnerExpert& expert) {
  std::vector<package::NamedTensor> tensors;
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    const learn::OwnerExpert::Layer& layer = expert.layers[l];
    const std::string prefix = absl::StrCat("layers.", l, ".");
    tensors.push_back({prefix + "mlp.gate_proj.weight", layer.ffn.gate});
    tensors.push_back({prefix + "mlp.up_proj.weight", layer.ffn.up});
    tensors.push_back({prefix + "mlp.down_proj.weight", layer.ffn.down});
    tensors.push_back({prefix + "router.row", layer.row});
    tensors.push_back({prefix + "router.bias", layer.bias});
  }
  return tensors;
}

// The branch's tensors. What training left as it was is the base's own tensor,
// in the base's dtype: then it is known by its digest and does not travel.
std::vector<package::NamedTensor> Tensors(const learn::OwnedModel& branch,
                                          const package::LoadedModel& base) {
  std::map<std::string, math::Tensor> from;
  model::ModelWeights views = base.weights;
  VisitWeights(base.config, views,
               [&](const std::string& name, const math::Shape&,
                   math::Tensor& tensor) { from[name] = tensor; });
  std::vector<package::NamedTensor> tensors;
  std::vector<float> wide;
  model::ModelWeights own = branch.weights;
  VisitWeights(
      branch.config, own,
      [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
        const math::Tensor& old = from.at(name);
        bool same = old.shape == tensor.shape;
        if (same) {
          wide.resize(static_cast<size_t>(old.size()));
          math::Tensor view;
          view.data = wide.data();
          view.shape = old.shape;
          learn::Widen(old, view);
          same = std::memcmp(wide.data(), tensor.data,
                             static_cast<size_t>(tensor.bytes())) == 0;
        }
        tensors.push_back({name, same ? old : tensor});
      });
  return tensors;
}

void FillDomain(const Settings& settings, const v1::TrainingPlan& plan,
                const TrainedExpert& trained, v1::DomainDescriptor* domain) {
  domain->set_domain(settings.domain);
  for (const std::string& tag : settings.tags) domain->add_tags(tag);
  for (const std::string& l : settings.languages) domain->add_languages(l);
  domain->set_documents(static_cast<uint64_t>(trained.documents));
  domain->set_tokens(static_cast<uint64_t>(trained.statistics_tokens));
  if (trained.statistics.empty()) return;
  v1::AnchoredStatistics* anchored = domain->mutable_anchored();
  anchored->set_smoothing(plan.smoothing());
  anchored->set_gate_quantile(plan.gate_quantile());
  anchored->set_noise(trained.noise);
  for (const learn::OwnerLayer& layer : trained.statistics) {
    v1::LayerStatistics* out = anchored->add_layers();
    out->mutable_base_mean()->Assign(layer.base_mean.begin(),
                                     layer.base_mean.end());
    out->mutable_pair_mean()->Assign(layer.pair_mean.begin(),
                                     layer.pair_mean.end());
    out->set_threshold(layer.threshold);
  }
  const std::vector<learn::OwnerGate> gates = FurtherGates(
      plan, static_cast<int64_t>(trained.statistics[0].base_mean.size()));
  for (size_t g = 0; g < gates.size(); ++g) {
    v1::GateThresholds* out = anchored->add_gates();
    out->set_smoothing(gates[g].smoothing);
    out->set_prefix_mean(gates[g].prefix_mean);
    out->set_quantile(gates[g].quantile);
    out->set_rank(static_cast<uint32_t>(gates[g].rank));
    for (const learn::OwnerLayer& layer : trained.statistics) {
      out->add_thresholds(layer.further[g]);
    }
  }
}

// Also says so in the manifest.
absl::StatusOr<std::string> MomentsFile(const TrainedExpert& trained,
                                        int64_t min_documents,
                                        const std::string& path,
                                        v1::DomainDescriptor* domain) {
  const auto view = [](const std::vector<double>& numbers) {
    math::Tensor t;
    t.data = const_cast<double*>(numbers.data());
    t.dtype = math::DType::kF64;
    t.shape = {static_cast<int64_t>(numbers.size())};
    return t;
  };
  std::vector<package::NamedTensor> tensors;
  for (size_t l = 0; l < trained.moments.size(); ++l) {
    const std::string prefix = absl::StrCat("layers.", l, ".");
    tensors.push_back(
        {prefix + "products", view(trained.moments[l].products)});
    tensors.push_back({prefix + "sum", view(trained.moments[l].sum)});
  }
  MOTET_RETURN_IF_ERROR(package::WriteSafetensors(path, tensors));
  v1::SecondMoments* moments = domain->mutable_second_moments();
  moments->set_documents(static_cast<uint64_t>(trained.documents));
  moments->set_tokens(static_cast<uint64_t>(trained.statistics_tokens));
  moments->set_min_documents(static_cast<uint64_t>(min_documents));
  return proto::ReadFile(path, proto::kMaxPackageBytes);
}

void FillTraining(const v1::TrainingPlan& plan, const TrainedExpert& trained,
                  v1::TrainingRecord* record) {
  record->set_method(plan.method());
  record->set_plan_sha256(proto::Hex(proto::Sha256(PlanJson(plan))));
  record->set_steps(static_cast<uint64_t>(trained.result.steps));
  record->set_tokens(static_cast<uint64_t>(trained.result.tokens));
  record->set_seed(plan.seed());
  const learn::OwnerOptions o = OptionsOf(plan, "");
  auto& hyper = *record->mutable_hyper_parameters();
  hyper["batch_sequences"] = static_cast<double>(o.batch_sequences);
  hyper["sequence_tokens"] = static_cast<double>(o.sequence_tokens);
  hyper["learning_rate"] = o.learning_rate;
  hyper["warmup_steps"] = static_cast<double>(o.warmup_steps);
  hyper["final_lr_fraction"] = o.final_lr_fraction;
  hyper["clip_norm"] = o.clip_norm;
  hyper["weight_decay"] = o.weight_decay;
  hyper["router_z_weight"] = o.router_z_weight;
  hyper["lm_z_weight"] = o.lm_z_weight;
  hyper["public_fraction"] = o.public_fraction;
  if (!trained.whole) {
    hyper["row_norm"] = o.alone ? 1.0 : o.row_norm;
    hyper["coordination"] = o.alone ? 0 : 1;
    hyper["bias"] = o.alone || !o.bias ? 0 : 1;
  }
  if (trained.size.ffn_width > 0) {
    hyper["ffn_width"] = static_cast<double>(trained.size.ffn_width);
  }
  if (trained.size.stop_step > 0) {
    hyper["schedule_steps"] = static_cast<double>(o.steps);
  }
  if (trained.size.probe_perplexity > 0) {
    hyper["probe_perplexity"] = trained.size.probe_perplexity;
  }
  hyper["bf16_products"] = o.product == math::Product::kBf16 ? 1 : 0;
  record->set_software("motet " MOTET_VERSION);
  record->set_device(ProcessorName());
  record->mutable_loss_curve()->Assign(trained.result.loss_curve.begin(),
                                       trained.result.loss_curve.end());
  record->set_loss_every(static_cast<uint64_t>(trained.result.loss_every));
  record->set_seconds(trained.result.seconds);
}

std::string Readme(const v1::ExpertManifest& m) {
  const v1::LicenceTerms& licence = m.licence();
  const auto list = [](const auto& values) -> std::string {
    return values.empty() ? "any" : absl::StrJoin(values, ", ");
  };
  return absl::StrCat(
      "# ", m.title(), "\n\n`", m.id(),
      "` is an expert of a Motet "
      "federation, branched from the base `",
      m.base().id(), "` (manifest ", m.base().manifest_sha256(), ").\n\n",
      absl::StrFormat(
          "- kind: %s\n- domain: %s\n- method: %s, %d steps, %d tokens, "
          "seed %d\n- behind the statistics: %d documents, %d tokens; no text "
          "is in this package\n",
          m.kind(), m.domain().domain(), m.training().method(),
          m.training().steps(), m.training().tokens(), m.training().seed(),
          m.domain().documents(), m.domain().tokens()),
      "- licence: ", licence.spdx(),
      "; purposes allowed: ", list(licence.allowed_purposes()),
      licence.forbidden_purposes().empty()
          ? ""
          : absl::StrCat(", but not ", list(licence.forbidden_purposes())),
      licence.attribution().empty()
          ? ""
          : absl::StrCat("\n- attribution: ", licence.attribution()),
      m.domain().has_second_moments()
          ? "\n\n`statistics.safetensors` holds second moments of the base's "
            "router inputs over the owner's text: they say more of the text "
            "than means do."
          : "",
      m.training().hyper_parameters().count("proxy_accuracy") > 0
          ? "\n\n`proxy.safetensors` holds a score of each public document "
            "of the base, by likeness to the owner's text."
          : "",
      m.router_row().has_embedder()
          ? absl::StrCat("\n\nRouter rows began as vectors of ",
                         m.router_row().embedder().documents(),
                         " of the owner's documents by the encoder ",
                         m.router_row().embedder().sha256(), ".")
          : "",
      "\n\nFiles: `weights.safetensors` holds ",
      package::IsWhole(m.kind())
          ? absl::StrCat("the tensors of the branch that differ from the "
                         "base's (",
                         m.base_tensors_size(), " others are the base's)")
          : "the expert's FFN of every layer, its router row and bias",
      ";\n`manifest.json` says the rest, `model.sig` "
      "signs all files (OpenSSF Model Signing).\n");
}

}  // namespace

std::string ProcessorName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (absl::StartsWith(line, "model name") && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown processor";
}

absl::Status WriteExpertPackage(const Settings& settings, const Policy& policy,
                                const v1::TrainingPlan& plan, const Base& base,
                                const TrainedExpert& trained,
                                const std::string& job_folder) {
  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id(PackageId(plan, settings));
  m.set_kind(package::FindTrainingKind(plan.kind())->name);
  m.set_title(settings.title);
  *m.mutable_base() = package::ReferenceTo(base.package);
  *m.mutable_model() = base.package.manifest.model();
  FillDomain(settings, plan, trained, m.mutable_domain());
  FillTraining(plan, trained, m.mutable_training());
  *m.mutable_licence() = policy.licence;
  if (trained.whole) {
    m.mutable_model()->set_ffn_width(
        static_cast<uint32_t>(trained.branch.config.ffn_width));
    package::DenseContent split = package::SplitDense(
        Tensors(trained.branch, *base.model), base.package.manifest);
    content.weights = std::move(split.weights);
    m.mutable_base_tensors()->Assign(split.base_tensors.begin(),
                                     split.base_tensors.end());
  } else {
    m.set_frozen_sha256(package::FrozenDigest(base.package.manifest));
    m.mutable_router_row()->set_source(plan.alone() ? "domain_mean"
                                                    : "trained");
    if (!trained.start.direction.empty()) {
      *m.mutable_router_row()->mutable_embedder() = trained.start.embedder;
    }
    content.weights = Tensors(trained.expert);
  }
  if (trained.fisher) {
    std::vector<package::NamedTensor>& fisher =
        content.tensor_files[package::kFisherFile];
    model::ModelWeights numbers = trained.fisher->weights;
    VisitWeights(trained.fisher->config, numbers,
                 [&](const std::string& name, const math::Shape&,
                     math::Tensor& tensor) {
                   fisher.push_back({name, tensor});
                 });
  }
  std::vector<int64_t> scored;  // documents' ids, while they are written
  if (trained.proxy) {
    for (const std::string& text : base.public_documents) {
      scored.push_back(static_cast<int64_t>(learn::Fnv1a(text)));
    }
    const auto view = [](const auto& numbers, math::DType dtype) {
      math::Tensor t;
      t.data = const_cast<void*>(static_cast<const void*>(numbers.data()));
      t.dtype = dtype;
      t.shape = {static_cast<int64_t>(numbers.size())};
      return t;
    };
    content.tensor_files[package::kProxyFile] = {
        {"documents", view(scored, math::DType::kI64)},
        {"scores", view(trained.proxy->scores, math::DType::kF32)}};
    auto& hyper = *m.mutable_training()->mutable_hyper_parameters();
    hyper["proxy_accuracy"] = trained.proxy->accuracy;
    hyper["proxy_documents"] = static_cast<double>(trained.proxy->own);
  }
  if (!trained.moments.empty()) {
    const std::string path = job_folder + "/statistics.partial";
    MOTET_ASSIGN_OR_RETURN(content.files["statistics.safetensors"],
                           MomentsFile(trained, policy.min_documents, path,
                                       m.mutable_domain()));
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
  content.readme = Readme(m);
  return SealPackage(settings, content, base.package, job_folder);
}

absl::Status SealPackage(const Settings& settings,
                         const package::PackageContent& content,
                         const package::OpenedPackage& base,
                         const std::string& job_folder) {
  MOTET_ASSIGN_OR_RETURN(
      std::string key,
      proto::ReadFile(settings.Path("key.pem"), proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(std::string certificate,
                         proto::ReadFile(settings.Path("certificate.pem"),
                                         proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(
      std::string authority,
      proto::ReadFile(settings.Path("ca.pem"), proto::kMaxCertificateBytes));
  // Built and checked beside its place: a package/ that exists is good.
  const std::string built = job_folder + "/package.partial";
  std::error_code error;
  std::filesystem::remove_all(built, error);
  MOTET_RETURN_IF_ERROR(
      package::BuildPackage(built, content, key, certificate));
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(built, authority));
  MOTET_RETURN_IF_ERROR(package::CheckAgainstBase(opened, base));
  return proto::RenameDurably(built, job_folder + "/package");
}

absl::StatusOr<BuiltPackage> OpenBuilt(const Settings& settings,
                                       const std::string& folder) {
  MOTET_ASSIGN_OR_RETURN(
      std::string authority,
      proto::ReadFile(settings.Path("ca.pem"), proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(folder, authority));
  BuiltPackage built;
  built.id = opened.manifest.id();
  built.manifest_sha256 = opened.manifest_sha256;
  MOTET_ASSIGN_OR_RETURN(built.cuts, package::ChunkCutsOf(folder));
  return built;
}

}  // namespace motet::node
