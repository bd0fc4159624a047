// SPDX-License-Identifier: Apache-2.0
#include "compose/package/decoder_lora.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "compose/package/f32_tensors.h"
#include "compose/package/peft.h"
#include "compose/package/safetensors.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using math::DType;
using math::Tensor;

constexpr absl::string_view kPrefix = "base_model.model.";
constexpr absl::string_view kWeight = ".weight";

// One linear map of the decoder: its name within the model, as PEFT has it,
// and its weight.
struct Map {
  std::string name;
  Tensor* weight;
};

std::vector<Map> MapsOf(const model::ModelConfig& config,
                        model::ModelWeights& weights) {
  std::vector<Map> maps;
  model::VisitWeights(
      config, weights,
      [&](const std::string& name, const math::Shape& shape, Tensor& tensor) {
        if (shape.rank != 2 || !absl::EndsWith(name, "_proj.weight")) return;
        maps.push_back(
            {std::string(absl::StripSuffix(name, kWeight)), &tensor});
      });
  return maps;
}

// As PEFT matches names.
bool IsTarget(const std::string& name, const std::string& target) {
  return name == target || absl::EndsWith(name, "." + target);
}

absl::Status CheckConfig(const model::LoraConfig& lora,
                         const std::vector<Map>& maps) {
  std::vector<std::string> reasons;
  if (!(lora.alpha > 0 && lora.alpha < 1e6)) {
    reasons.push_back(absl::StrCat("lora_alpha = ", lora.alpha,
                                   " (want more than 0, less than 1e6)"));
  }
  for (const std::string& target : lora.targets) {
    if (std::none_of(maps.begin(), maps.end(), [&](const Map& map) {
          return IsTarget(map.name, target);
        })) {
      reasons.push_back(
          absl::StrCat("target module \"", target,
                       "\" (want a map of the decoder: q_proj, k_proj, "
                       "v_proj, o_proj, gate_proj, up_proj or down_proj)"));
    }
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("adapter_config.json", absl::StrJoin(reasons, ", "),
                        "a LoRA adapter of this decoder",
                        "export the adapter for these maps");
}

// Row o of W + scale B A, in place.
void FoldRow(const Tensor& a, const Tensor& b, double scale, int64_t o,
             Tensor& w, std::vector<double>& sum) {
  const int64_t in = w.cols(), rank = a.rows();
  std::fill(sum.begin(), sum.end(), 0.0);
  for (int64_t r = 0; r < rank; ++r) {
    const double factor = b.f32()[o * rank + r];
    const float* row = a.f32() + r * in;
    for (int64_t i = 0; i < in; ++i) sum[i] += factor * double{row[i]};
  }
  for (int64_t i = 0; i < in; ++i) {
    const int64_t at = o * in + i;
    if (w.dtype == DType::kF32) {
      w.f32()[at] = static_cast<float>(double{w.f32()[at]} + scale * sum[i]);
      continue;
    }
    uint16_t& bits = static_cast<uint16_t*>(w.data)[at];
    const bool bf16 = w.dtype == DType::kBF16;
    const double was = bf16 ? math::WidenBf16(bits) : math::WidenF16(bits);
    const auto is = static_cast<float>(was + scale * sum[i]);
    bits = bf16 ? math::NarrowBf16(is) : math::NarrowF16(is);
  }
}

}  // namespace

absl::StatusOr<FoldedLora> FoldLora(const std::string& folder,
                                    const model::ModelConfig& config,
                                    const model::ModelWeights& base) {
  MOTET_ASSIGN_OR_RETURN(
      const std::string json,
      proto::ReadFile(folder + "/adapter_config.json", proto::kMaxConfigBytes));
  FoldedLora folded;
  MOTET_ASSIGN_OR_RETURN(folded.config, ParseLoraConfig(json));
  folded.weights = base;
  std::vector<Map> maps = MapsOf(config, folded.weights);
  MOTET_RETURN_IF_ERROR(CheckConfig(folded.config, maps));
  MOTET_ASSIGN_OR_RETURN(
      const auto file,
      SafetensorsFile::Open(folder + "/adapter_model.safetensors"));

  std::deque<std::vector<float>> copies;
  F32Tensors tensors(copies);
  for (const SafetensorsFile::Entry& entry : file->entries()) {
    tensors.Offer(absl::StripPrefix(entry.name, kPrefix), entry.tensor);
  }
  struct Pair {
    Tensor a, b;
    Tensor* weight;
  };
  std::vector<Pair> pairs;
  const int64_t rank = folded.config.rank;
  for (const Map& map : maps) {
    const auto& targets = folded.config.targets;
    if (std::none_of(targets.begin(), targets.end(), [&](const auto& target) {
          return IsTarget(map.name, target);
        })) {
      continue;
    }
    Pair pair;
    pair.weight = map.weight;
    tensors.Take(map.name + ".lora_A.weight", {rank, map.weight->cols()},
                 pair.a);
    tensors.Take(map.name + ".lora_B.weight", {map.weight->rows(), rank},
                 pair.b);
    pairs.push_back(pair);
  }
  MOTET_RETURN_IF_ERROR(tensors.Finish(absl::StrCat("adapter ", folder)));

  const double scale = folded.config.alpha / static_cast<double>(rank);
  for (Pair& pair : pairs) {
    Tensor& w = *pair.weight;
    folded.storage.push_back(std::make_unique<char[]>(w.bytes()));
    std::copy_n(static_cast<const char*>(w.data), w.bytes(),
                folded.storage.back().get());
    w.data = folded.storage.back().get();
#pragma omp parallel
    {
      std::vector<double> sum(w.cols());
#pragma omp for schedule(static)
      for (int64_t o = 0; o < w.rows(); ++o) {
        FoldRow(pair.a, pair.b, scale, o, w, sum);
      }
    }
  }
  folded.maps = static_cast<int64_t>(pairs.size());
  return folded;
}

}  // namespace motet::package
