// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/member_rows.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/assemble/tuning.h"
#include "compose/learn/hash.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

constexpr double kRandomDeviation = 0.02;

// Scaled to length 1; zeros stay zeros.
void Normalise(const float* mean, int64_t width, float* row) {
  double square = 0;
  for (int64_t c = 0; c < width; ++c) square += double{mean[c]} * mean[c];
  const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
  for (int64_t c = 0; c < width; ++c) {
    row[c] = static_cast<float>(mean[c] * scale);
  }
}

}  // namespace

std::string LackOfMeans(const v1::ExpertManifest& expert) {
  const v1::AnchoredStatistics& s = expert.domain().anchored();
  bool all = s.layers_size() == static_cast<int>(expert.model().layers());
  for (const v1::LayerStatistics& layer : s.layers()) {
    all &= layer.base_mean_size() == static_cast<int>(expert.model().width());
  }
  return all && s.layers_size() > 0
             ? ""
             : "no means of the base's router inputs over its documents";
}

MemberRows RandomRows(const model::ModelConfig& config,
                      const v1::CompositionLock& lock, uint64_t seed) {
  const int64_t width = config.width;
  const auto members = static_cast<size_t>(lock.experts_size()) + 1;
  MemberRows rows(config.layers, std::vector<float>(members * width));
  for (size_t m = 0; m < members; ++m) {
    const uint64_t package = learn::Fnv1a(
        m == 0 ? lock.base().manifest_sha256()
               : lock.experts(static_cast<int>(m) - 1).manifest_sha256());
    const uint64_t own = learn::Mix(package ^ learn::Mix(seed));
    for (int64_t i = 0; i < config.layers * width; ++i) {
      rows[i / width][m * width + i % width] = static_cast<float>(
          kRandomDeviation * learn::Normal(own, static_cast<uint64_t>(i)));
    }
  }
  return rows;
}

absl::StatusOr<MemberRows> MeanRows(
    const model::ModelConfig& config, const std::string& base_folder,
    const std::vector<const v1::ExpertManifest*>& experts,
    const std::string& hint) {
  const int64_t width = config.width;
  const size_t members = experts.size() + 1;
  MemberRows rows(config.layers, std::vector<float>(members * width));
  MOTET_ASSIGN_OR_RETURN(
      const auto anchor,
      package::SafetensorsFile::Open(base_folder + "/anchor.safetensors"));
  for (int64_t l = 0; l < config.layers; ++l) {
    const math::Tensor mean = anchor->Find(absl::StrCat("layers.", l, ".mean"));
    if (mean.empty() || mean.dtype != math::DType::kF32 ||
        !(mean.shape == math::Shape{width})) {
      return proto::Invalid(
          anchor->path(), absl::StrCat("no fitting layers.", l, ".mean"),
          absl::StrCat("F32 [", width, "]"),
          hint.empty() ? "make the base again"
                       : absl::StrCat(hint, ", or make the base again"));
    }
    Normalise(mean.f32(), width, rows[l].data());
  }
  for (size_t m = 1; m < members; ++m) {
    const v1::ExpertManifest& manifest = *experts[m - 1];
    const std::string lack = LackOfMeans(manifest);
    if (!lack.empty() ||
        static_cast<int64_t>(manifest.model().width()) != width ||
        static_cast<int64_t>(manifest.model().layers()) != config.layers) {
      return proto::Invalid(manifest.id(), lack.empty() ? "other shapes" : lack,
                            "means of every layer", hint);
    }
    for (int64_t l = 0; l < config.layers; ++l) {
      Normalise(manifest.domain()
                    .anchored()
                    .layers(static_cast<int>(l))
                    .base_mean()
                    .data(),
                width, rows[l].data() + m * width);
    }
  }
  return rows;
}

absl::StatusOr<MemberRows> RowsOfMembers(const model::ModelConfig& config,
                                         const DenseParts& parts,
                                         const v1::CompositionLock& lock,
                                         uint64_t seed) {
  if (RowsBeforeTuning(lock) == "random") return RandomRows(config, lock, seed);
  std::vector<const v1::ExpertManifest*> experts;
  for (const auto& branch : parts.branches) experts.push_back(&branch.manifest);
  return MeanRows(config, parts.base_folder, experts,
                  "choose rows = \"random\"");
}

}  // namespace motet::assemble
