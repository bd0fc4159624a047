// SPDX-License-Identifier: Apache-2.0
// The methods flexolmo (METHODS 1 and 11) and dume (METHODS 5), which solves
// the rows: a lock and package folders in, a running composition out. Weights
// stay mapped where the packages lie; what is made new is small: router rows,
// and the anchored router's selection.
//
// Everything made for expert e is a function of the base and of e alone, and
// is summed in a fixed order, so a composition without e is the same
// arithmetic without e (docs/exclusion.md).
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/assemble/dume.h"
#include "compose/assemble/gate.h"
#include "compose/assemble/method.h"
#include "compose/assemble/tuning.h"
#include "compose/assemble/verify.h"
#include "compose/learn/statistics.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using math::Shape;
using math::Tensor;
using package::SafetensorsFile;

Tensor NewTensor(Composition& composition, const Shape& shape) {
  auto numbers = std::make_unique<float[]>(shape.size());  // zeros
  Tensor tensor;
  tensor.data = numbers.get();
  tensor.shape = shape;
  composition.storage.push_back(std::move(numbers));
  return tensor;
}

absl::StatusOr<Tensor> Find(const SafetensorsFile& file,
                            const std::string& name, const Shape& shape) {
  const Tensor tensor = file.Find(name);
  if (tensor.empty() || !(tensor.shape == shape) ||
      tensor.dtype != math::DType::kF32) {
    return proto::Invalid(
        file.path(),
        tensor.empty() ? absl::StrCat("no tensor ", name)
                       : absl::StrCat(name, " ", math::Name(tensor.dtype),
                                      " ", tensor.shape.ToString()),
        absl::StrCat("F32 ", shape.ToString()),
        "fetch the package again or ask its owner");
  }
  return tensor;
}

// w = P mu and c = -1/2 (mu.w - noise^2 C), in double, in index order: noise
// of covariance noise^2 P^-1 adds noise^2 C to mu.w on the average, which
// would leave its owner's text to the others.
void Select(const float* precision, const std::vector<float>& mu, double noise,
            float* w, float* c) {
  const size_t width = mu.size();
  double dot = 0;
  for (size_t i = 0; i < width; ++i) {
    double sum = 0;
    for (size_t j = 0; j < width; ++j) {
      sum += double{precision[i * width + j]} * double{mu[j]};
    }
    w[i] = static_cast<float>(sum);
    dot += double{mu[i]} * sum;
  }
  // mu'P mu is never below 0: a stated noise cannot make an expert likelier.
  dot = std::max(0.0, dot - noise * noise * static_cast<double>(width));
  *c = static_cast<float>(-0.5 * dot);
}

// The selected experts' packages, opened and checked against the lock.
struct Opened {
  std::vector<std::shared_ptr<const SafetensorsFile>> weights;
  std::vector<v1::ExpertManifest> manifests;
  // Where rows or the selection are solved.
  std::vector<std::shared_ptr<const SafetensorsFile>> statistics;
  std::vector<uint64_t> tokens;  // behind these
};

absl::StatusOr<v1::CompositionLock> Selected(const v1::CompositionLock& lock,
                                             const LoadOptions& options) {
  v1::CompositionLock selected = lock;
  if (!options.router.empty()) {
    const bool anchored = options.router == "anchored";
    if (anchored && lock.has_tuning()) {
      return proto::Invalid("composition", "router \"anchored\"", "\"topk\"",
                            "its rows were tuned for that");
    }
    if ((!anchored && (options.router != "topk" ||
                       lock.router().rows() == kMixedRows)) ||
        (anchored && lock.method() != "flexolmo")) {
      return proto::Invalid("composition",
                            absl::StrCat("router \"", options.router, "\""),
                            lock.router().rows() == kMixedRows ? "\"anchored\""
                            : lock.method() == "flexolmo"
                                ? "\"anchored\" or \"topk\""
                                : "\"topk\"");
    }
    selected.mutable_router()->set_kind(options.router);
  }
  return SelectExperts(selected, options);
}

// Of norm 1, as the owners' are.
void FillMeanRow(const Tensor& mean, float* row) {
  double square = 0;
  for (int64_t c = 0; c < mean.size(); ++c) {
    square += double{mean.f32()[c]} * double{mean.f32()[c]};
  }
  const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
  for (int64_t c = 0; c < mean.size(); ++c) {
    row[c] = static_cast<float>(scale * double{mean.f32()[c]});
  }
}

// Expert FFNs by reference and rows by copy, layer by layer. Row 0, the
// base's, is zeros, a dense base having no router, or the public mean beside
// owners' means. The train-time bias stays in the package (METHODS 1, step 4).
absl::Status AddExperts(const Opened& opened, const SafetensorsFile* anchor,
                        Composition& composition,
                        model::ModelWeights& weights) {
  const model::ModelConfig& config = composition.config;
  const int64_t width = config.width;
  for (int64_t l = 0; l < config.layers; ++l) {
    model::LayerWeights& layer = weights.layers[l];
    layer.router = NewTensor(composition, {config.experts, width});
    if (RowsBeforeTuning(composition.lock) == kMeanRows) {
      MOTET_ASSIGN_OR_RETURN(
          const Tensor mean,
          Find(*anchor, absl::StrCat("layers.", l, ".mean"), {width}));
      FillMeanRow(mean, layer.router.f32());
    }
    for (size_t i = 0; i < opened.weights.size(); ++i) {
      const SafetensorsFile& file = *opened.weights[i];
      const std::string prefix = absl::StrCat("layers.", l, ".");
      model::FfnWeights ffn;
      ffn.gate = file.Find(prefix + "mlp.gate_proj.weight");
      ffn.up = file.Find(prefix + "mlp.up_proj.weight");
      ffn.down = file.Find(prefix + "mlp.down_proj.weight");
      layer.experts.push_back(ffn);
      MOTET_ASSIGN_OR_RETURN(const Tensor row,
                             Find(file, prefix + "router.row", {width}));
      std::copy_n(row.f32(), width, layer.router.f32() + (i + 1) * width);
    }
  }
  return absl::OkStatus();
}

// Of the gate's metric, of each layer: seconds of work each, so several at a
// time. Empty where the gate has all of it, or there is none.
absl::StatusOr<std::vector<Tensor>> GateFactors(const SafetensorsFile& anchor,
                                                Composition& composition) {
  const v1::RouterLock& router = composition.lock.router();
  const int64_t layers = composition.config.layers;
  std::vector<Tensor> factors(static_cast<size_t>(layers));
  if (!router.gate() || router.gate_rank() == 0) return factors;
  const int64_t width = composition.config.width;
  const int64_t rank = std::min<int64_t>(router.gate_rank(), width);
  std::vector<Tensor> covariances, precisions;
  for (int64_t l = 0; l < layers; ++l) {
    const std::string prefix = absl::StrCat("layers.", l, ".");
    MOTET_ASSIGN_OR_RETURN(covariances.emplace_back(),
                           Find(anchor, prefix + "covariance", {width, width}));
    MOTET_ASSIGN_OR_RETURN(precisions.emplace_back(),
                           Find(anchor, prefix + "precision", {width, width}));
    factors[static_cast<size_t>(l)] = NewTensor(composition, {rank, width});
  }
  InParallel(factors.size(), [&](size_t l) {
    const std::vector<float> factor = learn::GateFactor(
        covariances[l].f32(), precisions[l].f32(), width, rank);
    std::copy(factor.begin(), factor.end(), factors[l].f32());
  });
  return factors;
}

absl::StatusOr<math::AnchoredLayer> Anchored(const Opened& opened,
                                             const SafetensorsFile& anchor,
                                             int64_t l, const Tensor& rows,
                                             const Tensor& factor,
                                             Composition& composition) {
  const model::ModelConfig& config = composition.config;
  const int64_t width = config.width, experts = config.experts;
  const v1::RouterLock& router = composition.lock.router();
  const std::string prefix = absl::StrCat("layers.", l, ".");
  math::AnchoredLayer layer;
  layer.rows = rows;
  layer.smoothing = static_cast<float>(router.smoothing());
  layer.prefix_mean = router.prefix_mean();
  layer.pair = router.mixing() != "switch";
  layer.gate = router.gate();
  layer.select = NewTensor(composition, {experts, width});
  layer.offset = NewTensor(composition, {experts});
  layer.pair_mean = NewTensor(composition, {experts, width});
  layer.threshold = NewTensor(composition, {experts});
  layer.threshold.f32()[0] = std::numeric_limits<float>::infinity();
  MOTET_ASSIGN_OR_RETURN(
      layer.precision, Find(anchor, prefix + "precision", {width, width}));
  layer.factor = factor;
  MOTET_ASSIGN_OR_RETURN(const Tensor mean,
                         Find(anchor, prefix + "mean", {width}));
  Select(layer.precision.f32(),
         std::vector<float>(mean.f32(), mean.f32() + width), 0,
         layer.select.f32(), layer.offset.f32());
  for (int64_t e = 1; e < experts; ++e) {
    const v1::ExpertManifest& manifest = opened.manifests[e - 1];
    const v1::AnchoredStatistics& statistics = manifest.domain().anchored();
    const bool there = l < statistics.layers_size();
    const v1::LayerStatistics empty;
    const v1::LayerStatistics& s = there ? statistics.layers(l) : empty;
    if (s.base_mean_size() != width ||
        (layer.gate && s.pair_mean_size() != width)) {
      return proto::Invalid(
          manifest.id(), absl::StrCat("no fitting statistics of layer ", l),
          absl::StrCat("means of ", width, " numbers"),
          "choose router \"topk\", or publish the expert with statistics");
    }
    Select(layer.precision.f32(), {s.base_mean().begin(), s.base_mean().end()},
           statistics.noise(), layer.select.f32() + e * width,
           layer.offset.f32() + e);
    if (!layer.gate) continue;
    std::copy(s.pair_mean().begin(), s.pair_mean().end(),
              layer.pair_mean.f32() + e * width);
    const std::vector<float> thresholds =
        Thresholds(statistics, {router.smoothing(), router.prefix_mean(),
                                router.quantile(), router.gate_rank()});
    if (l >= static_cast<int64_t>(thresholds.size())) {
      return proto::Invalid(
          manifest.id(),
          absl::StrCat("no thresholds of the lock's gate (smoothing ",
                       router.smoothing(), ", quantile ", router.quantile(),
                       ", rank ", router.gate_rank(), ")"),
          PublishedGates(statistics), "apply the recipe again");
    }
    layer.threshold.f32()[e] = thresholds[static_cast<size_t>(l)];
  }
  return layer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Composition>> LoadFlexOlmo(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options) {
  auto composition = std::make_unique<Composition>();
  MOTET_ASSIGN_OR_RETURN(composition->lock, Selected(lock, options));
  const v1::CompositionLock& chosen = composition->lock;
  DescribeServed(chosen, *composition);

  MOTET_ASSIGN_OR_RETURN(const std::string base_folder,
                         folder_of(chosen.base().manifest_sha256()));
  Verifier verifier;
  MOTET_RETURN_IF_ERROR(verifier.Base(base_folder, chosen.base()).status());
  Opened opened;
  const bool dume = chosen.method() == "dume";
  const bool anchored = chosen.router().kind() == "anchored";
  const bool pooled = anchored && chosen.router().covariance() == "pooled";
  std::set<std::string> more;
  if (dume || pooled) more.insert(kStatisticsFile);
  std::vector<std::string> folders;
  for (const v1::LockedExpert& expert : chosen.experts()) {
    MOTET_ASSIGN_OR_RETURN(folders.emplace_back(),
                           folder_of(expert.manifest_sha256()));
    MOTET_ASSIGN_OR_RETURN(opened.manifests.emplace_back(),
                           verifier.Expert(folders.back(), expert, more));
  }
  MOTET_RETURN_IF_ERROR(VerifyWhen(options.verify, verifier, *composition));
  MOTET_RETURN_IF_ERROR(TakeBase(base_folder, *composition));
  for (const std::string& folder : folders) {
    MOTET_ASSIGN_OR_RETURN(
        opened.weights.emplace_back(),
        SafetensorsFile::Open(folder + "/weights.safetensors"));
    if (!dume && !pooled) continue;
    MOTET_ASSIGN_OR_RETURN(
        opened.statistics.emplace_back(),
        SafetensorsFile::Open(absl::StrCat(folder, "/", kStatisticsFile)));
  }
  for (const v1::ExpertManifest& manifest : opened.manifests) {
    opened.tokens.push_back(manifest.domain().second_moments().tokens());
  }
  composition->files = opened.weights;

  model::ModelConfig& config = composition->config;
  config.experts = chosen.experts_size() + 1;
  const bool shared =
      chosen.router().shared() && chosen.router().kind() == "topk";
  config.experts_per_token = std::min<int64_t>(
      chosen.router().k() + (shared ? 1 : 0), config.experts);
  config.renormalise = chosen.router().renormalise();
  model::ModelWeights weights = composition->base->weights;
  std::shared_ptr<const SafetensorsFile> anchor;
  if (dume || anchored || RowsBeforeTuning(chosen) == kMeanRows) {
    MOTET_ASSIGN_OR_RETURN(
        anchor, SafetensorsFile::Open(base_folder + "/anchor.safetensors"));
  }
  MOTET_RETURN_IF_ERROR(
      AddExperts(opened, anchor.get(), *composition, weights));

  model::Router router;
  router.k = chosen.router().k();
  router.renormalise = config.renormalise;
  router.null_experts = chosen.router().null_experts();
  router.shared = shared;
  router.most_active = chosen.router().most_active();
  if (chosen.router().kind() == "topp") {
    router.kind = model::Router::Kind::kTopP;
    router.top_p = chosen.router().top_p();
  }
  if (dume || pooled) {
    MOTET_ASSIGN_OR_RETURN(
        router.rows,
        MakeSolvedRows(dume ? Solved::kRows : Solved::kDiscriminants, config,
                       *anchor, chosen.router().anchor_tokens(),
                       opened.statistics, opened.tokens,
                       chosen.router().ridge()));
  }
  if (dume) {
    // For an export, which has one set.
    const auto all = router.rows->For(math::FirstExperts(config.experts));
    for (int64_t l = 0; l < config.layers; ++l) {
      model::LayerWeights& layer = weights.layers[l];
      std::copy_n(all->rows[l].f32(), all->rows[l].size(), layer.router.f32());
    }
  }
  if (chosen.has_tuning()) {
    MOTET_ASSIGN_OR_RETURN(
        learn::RouterRows tuned,
        ReadTunedRows(chosen, options.folder, config));
    std::vector<math::Tensor> untuned;
    for (int64_t l = 0; l < config.layers; ++l) {
      untuned.push_back(std::exchange(weights.layers[l].router, tuned.ffn[l]));
    }
    router.rows = MakeTunedRows(
        tuned.ffn, std::move(untuned), math::FirstExperts(config.experts),
        chosen.tuning().narrowed() == "tuned");
    for (auto& numbers : tuned.storage) {
      composition->storage.push_back(std::move(numbers));
    }
  }
  if (anchored) {
    router.kind = model::Router::Kind::kAnchored;
    composition->files.push_back(anchor);
    MOTET_ASSIGN_OR_RETURN(const std::vector<Tensor> factors,
                           GateFactors(*anchor, *composition));
    for (int64_t l = 0; l < config.layers; ++l) {
      MOTET_ASSIGN_OR_RETURN(
          math::AnchoredLayer layer,
          Anchored(opened, *anchor, l, weights.layers[l].router,
                   factors[static_cast<size_t>(l)], *composition));
      router.anchored.push_back(layer);
    }
  }
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(config, std::move(weights), std::move(router)));
  composition->decoder = std::make_unique<model::Decoder>(std::move(decoder));
  return composition;
}

}  // namespace motet::assemble
