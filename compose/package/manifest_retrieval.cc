// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_retrieval.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/encoder_folder.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/peft.h"
#include "compose/package/safetensors.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

constexpr int kMaxTargets = 64;
constexpr double kMaxNoise = 100;
constexpr double kMaxGateShare = 0.5;

std::string OwnerOf(const std::string& id) {
  return id.substr(0, id.find('/'));
}

void CheckAdapterRecord(const v1::AdapterRecord& a, uint32_t width,
                        Reasons& reasons) {
  if (a.rank() < 1 || a.rank() > width) {
    reasons.push_back(absl::StrCat("adapter.rank is ", a.rank(),
                                   ", want 1 to the width, ", width));
  }
  if (!(a.alpha() > 0 && a.alpha() < 1e6)) {
    reasons.push_back(absl::StrCat("adapter.alpha is ", a.alpha(),
                                   ", want more than 0, less than 1e6"));
  }
  const std::set<std::string> targets(a.targets().begin(), a.targets().end());
  if (targets.empty() || a.targets_size() > kMaxTargets ||
      static_cast<int>(targets.size()) != a.targets_size() ||
      targets.contains("")) {
    reasons.push_back(
        absl::StrCat("adapter.targets is [", absl::StrJoin(a.targets(), ", "),
                     "], want 1 to ", kMaxTargets, " names, each once"));
  }
}

void CheckPilotExperts(const v1::PilotRecord& p, Reasons& reasons) {
  if (p.experts_size() < 1 || p.experts_size() > kMaxPilotExperts) {
    reasons.push_back(absl::StrCat("pilots.experts has ", p.experts_size(),
                                   " entries, want 1 to ", kMaxPilotExperts));
  }
  std::set<std::string> seen;
  for (const v1::PilotExpert& e : p.experts()) {
    if (!IsPackageId(e.id())) {
      reasons.push_back(absl::StrCat("pilots.experts has ", Shown(e.id()),
                                     ", want owner/name@1.2.3"));
    }
    if (!seen.insert(e.id()).second) {
      reasons.push_back(
          absl::StrCat("pilots.experts has ", Shown(e.id()), " twice"));
    }
    CheckHex(absl::StrCat("weights_sha256 of ", Shown(e.id())),
             e.weights_sha256(), reasons);
  }
}

// Groups in the order of the experts, each at or above the owner's floor, and
// with what was withheld no more than rankings were made for.
// Of a group; what plans may ask for, so that sums stay sums.
constexpr uint64_t kMaxQueries = 1000000000;

void CheckPilotGroups(const v1::PilotRecord& p, Reasons& reasons) {
  std::map<std::string, int> position;
  for (int e = 0; e < p.experts_size(); ++e) {
    position.emplace(p.experts(e).id(), e);
  }
  if (p.groups_size() < 1) reasons.push_back("pilots.groups is empty");
  if (p.min_queries() < 1) {
    reasons.push_back("pilots.min_queries is 0, want at least 1");
  }
  int last = -1;
  uint64_t queries = 0;
  for (const v1::PilotGroup& g : p.groups()) {
    const auto it = position.find(g.expert());
    if (it == position.end()) {
      reasons.push_back(absl::StrCat("pilots.groups has ", Shown(g.expert()),
                                     ", which is not one of its experts"));
      continue;
    }
    if (it->second <= last) {
      reasons.push_back(absl::StrCat("pilots.groups has ", Shown(g.expert()),
                                     " twice or out of the experts' order"));
    }
    last = std::max(last, it->second);
    if (g.queries() < p.min_queries()) {
      reasons.push_back(absl::StrCat(
          "the pilot of ", Shown(g.expert()), " is of ", g.queries(),
          " queries, want at least the owner's floor, ", p.min_queries()));
    }
    if (g.queries() > kMaxQueries) {
      reasons.push_back(absl::StrCat("the pilot of ", Shown(g.expert()),
                                     " is of ", g.queries(),
                                     " queries, want at most ", kMaxQueries));
      continue;
    }
    queries += g.queries();
  }
  const auto experts = static_cast<uint64_t>(p.experts_size());
  const auto groups = static_cast<uint64_t>(p.groups_size());
  if (p.withheld() > experts || groups + p.withheld() > experts) {
    reasons.push_back(absl::StrCat(
        "pilots has ", groups, " groups and ", p.withheld(),
        " withheld, want at most one for each of ", experts, " experts"));
  }
  if (experts == 0) return;
  const uint64_t ranked = p.scorings() / experts;
  // A group that is withheld had a query at least.
  if (p.scorings() % experts != 0 || ranked < queries ||
      ranked - queries < p.withheld() ||
      (p.withheld() == 0 && ranked != queries)) {
    reasons.push_back(absl::StrCat("pilots.scorings is ", p.scorings(),
                                   ", want ", experts, " for each query: of ",
                                   queries, " in groups and those of ",
                                   p.withheld(), " withheld"));
  }
}

void CheckPilotRecord(const v1::ExpertManifest& m, Reasons& reasons) {
  const v1::PilotRecord& p = m.pilots();
  CheckPilotExperts(p, reasons);
  CheckPilotGroups(p, reasons);
  if (!IsPackageId(p.of()) || OwnerOf(p.of()) != OwnerOf(m.id())) {
    reasons.push_back(absl::StrCat("pilots.of is ", Shown(p.of()),
                                   ", want an expert of ",
                                   Shown(OwnerOf(m.id()))));
  }
  if (std::none_of(p.experts().begin(), p.experts().end(),
                   [&](const auto& e) { return e.id() == p.of(); })) {
    reasons.push_back(absl::StrCat("pilots.experts lacks ", Shown(p.of()),
                                   ", which the pilots are of"));
  }
  if (!(p.gate_share() >= 0 && p.gate_share() <= kMaxGateShare)) {
    reasons.push_back(absl::StrCat("pilots.gate_share is ", p.gate_share(),
                                   ", want 0 to ", kMaxGateShare));
  }
  for (const v1::PilotGroup& g : p.groups()) {
    if (p.gate_share() > 0 ? g.gate() >= -1 && g.gate() <= 1
                           : g.gate() == 0) {
      continue;
    }
    reasons.push_back(absl::StrCat(
        "the gate of ", Shown(g.expert()), " is ", g.gate(),
        p.gate_share() > 0 ? ", want a cosine, -1 to 1"
                           : ", want none without gate_share"));
  }
  if (!(p.noise() >= 0 && p.noise() <= kMaxNoise)) {
    reasons.push_back(
        absl::StrCat("pilots.noise is ", p.noise(), ", want 0 to ", kMaxNoise));
  }
}

void CheckPilotTensors(const v1::ExpertManifest& m, Reasons& reasons) {
  const auto rows = static_cast<uint64_t>(m.pilots().groups_size());
  bool good = m.tensors_size() == 1;
  if (good) {
    const v1::TensorDigest& t = m.tensors(0);
    good = t.name() == kPilotsTensor && t.dtype() == "F32" &&
           t.shape_size() == 2 && t.shape(0) == rows &&
           t.shape(1) == m.model().width();
  }
  if (good) return;
  reasons.push_back(absl::StrCat("tensors is not ", kPilotsTensor, " F32 [",
                                 rows, ", ", m.model().width(),
                                 "], a row a group, alone"));
}

// Names and shapes only an encoder can tell; here that they are pairs.
void CheckAdapterTensors(const v1::ExpertManifest& m, Reasons& reasons) {
  std::map<std::string, int> halves;
  for (const v1::TensorDigest& t : m.tensors()) {
    const bool a = absl::EndsWith(t.name(), ".lora_A.weight");
    const bool b = absl::EndsWith(t.name(), ".lora_B.weight");
    const bool floats =
        t.dtype() == "F32" || t.dtype() == "BF16" || t.dtype() == "F16";
    if ((!a && !b) || !floats || t.shape_size() != 2 ||
        t.shape(a ? 0 : 1) != m.adapter().rank()) {
      reasons.push_back(absl::StrCat(
          "tensor ", Shown(t.name()), " is ", Shown(t.dtype()), " [",
          absl::StrJoin(t.shape(), ", "), "], want lora_A.weight [",
          m.adapter().rank(), ", C] or lora_B.weight [N, ", m.adapter().rank(),
          "], F32, BF16 or F16"));
      continue;
    }
    halves[t.name().substr(0, t.name().rfind(".lora_"))] += a ? 1 : 2;
  }
  for (const auto& [name, sum] : halves) {
    if (sum == 3) continue;
    reasons.push_back(absl::StrCat("tensors lacks ", name, ".lora_",
                                   sum == 1 ? "B" : "A", ".weight"));
  }
}

Reasons Finite(const v1::ExpertManifest& m, const std::string& folder) {
  const auto file =
      SafetensorsFile::Open(absl::StrCat(folder, "/", WeightsFile(m.kind())));
  if (!file.ok()) return {};  // said already
  const math::Tensor t = (*file)->Find(kPilotsTensor);
  if (t.empty() || t.dtype != math::DType::kF32) return {};
  for (int64_t i = 0; i < t.size(); ++i) {
    if (std::isfinite(t.f32()[i])) continue;
    return {absl::StrCat("tensor ", kPilotsTensor,
                         " has a number that is not finite")};
  }
  return {};
}

Reasons CheckEncoder(const v1::ExpertManifest& m, const std::string& folder) {
  const auto encoder = LoadEncoder(folder);
  if (!encoder.ok()) return {std::string(encoder.status().message())};
  Reasons reasons;
  const v1::ModelShape is = ShapeOfEncoder((*encoder)->config);
  const auto same = [&](const char* name, uint32_t says, uint32_t has) {
    if (says == has) return;
    reasons.push_back(
        absl::StrCat("model.", name, " is ", says, ", config.json has ", has));
  };
  same("layers", m.model().layers(), is.layers());
  same("width", m.model().width(), is.width());
  same("ffn_width", m.model().ffn_width(), is.ffn_width());
  same("vocabulary", m.model().vocabulary(), is.vocabulary());
  return reasons;
}

Reasons CheckAdapterConfig(const v1::AdapterRecord& says,
                           const std::string& folder) {
  const auto text =
      proto::ReadFile(folder + "/adapter_config.json", proto::kMaxConfigBytes);
  if (!text.ok()) return {std::string(text.status().message())};
  const auto config = ParseLoraConfig(*text);
  if (!config.ok()) return {std::string(config.status().message())};
  Reasons reasons;
  if (config->rank != static_cast<int64_t>(says.rank())) {
    reasons.push_back(absl::StrCat("adapter.rank is ", says.rank(),
                                   ", adapter_config.json has ", config->rank));
  }
  if (config->alpha != says.alpha()) {
    reasons.push_back(absl::StrCat("adapter.alpha is ", says.alpha(),
                                   ", adapter_config.json has ",
                                   config->alpha));
  }
  const std::set<std::string> got(says.targets().begin(), says.targets().end());
  const std::set<std::string> has(config->targets.begin(),
                                  config->targets.end());
  if (got != has) {
    reasons.push_back(absl::StrCat(
        "adapter.targets is [", absl::StrJoin(got, ", "),
        "], adapter_config.json has [", absl::StrJoin(has, ", "), "]"));
  }
  return reasons;
}

}  // namespace

void CheckRetrievalRecords(const v1::ExpertManifest& m,
                           std::vector<std::string>& reasons) {
  const auto belongs = [&](const char* field, bool has, const char* kind) {
    if (has == (m.kind() == kind)) return has;
    reasons.push_back(
        absl::StrCat(field, has ? " of kind " : " is missing of kind ",
                     Shown(m.kind()), ", want it of kind ", kind));
    return false;
  };
  if (belongs("adapter", m.has_adapter(), kEmbeddingAdapter)) {
    CheckAdapterRecord(m.adapter(), m.model().width(), reasons);
  }
  if (belongs("pilots", m.has_pilots(), kPilots)) CheckPilotRecord(m, reasons);
}

void CheckRetrievalTensors(const v1::ExpertManifest& m,
                           std::vector<std::string>& reasons) {
  if (m.kind() == kEmbeddingAdapter) CheckAdapterTensors(m, reasons);
  if (m.kind() == kPilots) CheckPilotTensors(m, reasons);
}

std::vector<std::string> CheckRetrievalFiles(const v1::ExpertManifest& m,
                                             const std::string& folder) {
  if (m.kind() == kEncoder) return CheckEncoder(m, folder);
  if (m.kind() == kPilots) return Finite(m, folder);
  return CheckAdapterConfig(m.adapter(), folder);
}

std::vector<std::string> CheckAdapterOn(const std::string& adapter_folder,
                                        const std::string& encoder_folder) {
  const auto text =
      proto::ReadFile(encoder_folder + "/config.json", proto::kMaxConfigBytes);
  if (!text.ok()) return {std::string(text.status().message())};
  const auto config = model::ParseEncoderConfig(*text);
  if (!config.ok()) return {std::string(config.status().message())};
  const auto lora = LoadLora(adapter_folder, *config);
  if (!lora.ok()) return {std::string(lora.status().message())};
  return {};
}

v1::ModelShape ShapeOfEncoder(const model::EncoderConfig& config) {
  v1::ModelShape shape;
  shape.set_block("bert");
  shape.set_layers(static_cast<uint32_t>(config.layers));
  shape.set_width(static_cast<uint32_t>(config.width));
  shape.set_ffn_width(static_cast<uint32_t>(config.ffn_width));
  shape.set_vocabulary(static_cast<uint32_t>(config.vocabulary));
  return shape;
}

}  // namespace motet::package
