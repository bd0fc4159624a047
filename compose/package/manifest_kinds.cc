// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_kinds.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/manifest_retrieval.h"

namespace motet::package {
namespace {

const std::vector<KindRules>& Kinds() {
  static const auto* const kinds = new std::vector<KindRules>{
      {"base", nullptr, false, Presence::kNone, false, false, false,
       {"config.json", "tokenizer.json", "anchor.safetensors",
        "public.jsonl"}},
      {"ffn", "base", true, Presence::kMust, true, false, false, {}},
      {"dense", "base", false, Presence::kMay, true, true, false, {}},
      {"attention_ffn", "base", false, Presence::kMay, true, true, false, {}},
      {"sized", "base", false, Presence::kMay, true, true, true, {}},
      {.name = "encoder", .base = nullptr, .frozen = false,
       .anchored = Presence::kNone, .moments = false, .whole = false,
       .own_width = false, .files = {"config.json", "tokenizer.json"},
       .retrieval = true,
       .may = {"modules.json", "1_Pooling/config.json",
               "sentence_bert_config.json", "LICENSE", "NOTICE"}},
      {.name = "embedding_adapter", .base = "encoder", .frozen = false,
       .anchored = Presence::kNone, .moments = false, .whole = false,
       .own_width = false, .files = {"adapter_config.json"},
       .retrieval = true, .weights = "adapter_model.safetensors"},
      {.name = "pilots", .base = "encoder", .frozen = false,
       .anchored = Presence::kNone, .moments = false, .whole = false,
       .own_width = false, .files = {}, .retrieval = true},
  };
  return *kinds;
}

template <typename Wanted>
std::string Names(Wanted wanted) {
  std::vector<std::string> names;
  for (const KindRules& kind : Kinds()) {
    if (wanted(kind)) names.emplace_back(kind.name);
  }
  if (names.empty()) return "one on another base";
  const std::string last = names.back();
  names.pop_back();
  if (names.empty()) return last;
  return absl::StrCat(absl::StrJoin(names, ", "), " or ", last);
}

bool IsHexDigest(absl::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(static_cast<unsigned char>(c)) ||
                  (c >= 'a' && c <= 'f');
         });
}

// The tensors that an "ffn" expert of this shape has: name -> shape.
std::map<std::string, std::vector<uint64_t>> FfnTensors(
    const v1::ModelShape& m) {
  std::map<std::string, std::vector<uint64_t>> want;
  const uint64_t c = m.width(), f = m.ffn_width();
  for (uint32_t l = 0; l < std::min(m.layers(), kMaxLayers); ++l) {
    const std::string layer = absl::StrCat("layers.", l, ".");
    want[layer + "mlp.gate_proj.weight"] = {f, c};
    want[layer + "mlp.up_proj.weight"] = {f, c};
    want[layer + "mlp.down_proj.weight"] = {c, f};
    want[layer + "router.row"] = {c};
    want[layer + "router.bias"] = {1};
  }
  return want;
}

std::string ShapeText(const std::vector<uint64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// Exactly the FFN, row and bias of every layer, F32.
void CheckFfnTensors(const v1::ExpertManifest& m, Reasons& reasons) {
  auto wanted = FfnTensors(m.model());
  for (const v1::TensorDigest& t : m.tensors()) {
    const auto want = wanted.find(t.name());
    if (want == wanted.end()) {
      reasons.push_back(absl::StrCat("tensors has ", Shown(t.name()),
                                     ", which an ffn expert does not have"));
      continue;
    }
    const std::vector<uint64_t> shape(t.shape().begin(), t.shape().end());
    if (t.dtype() != "F32" || shape != want->second) {
      reasons.push_back(absl::StrCat(
          "tensor ", Shown(t.name()), " is ", Shown(t.dtype()), " ",
          ShapeText(shape), ", want F32 ", ShapeText(want->second)));
    }
    wanted.erase(want);
  }
  for (const auto& [name, shape] : wanted) {
    reasons.push_back(absl::StrCat("tensors lacks ", name));
  }
}

// Which tensors a model has only its base can say (manifest_dense.h).
void CheckWholeTensors(const v1::ExpertManifest& m, Reasons& reasons) {
  const auto check = [&](const auto& table) {
    for (const v1::TensorDigest& t : table) {
      if (t.dtype() != "F32" && t.dtype() != "BF16" && t.dtype() != "F16") {
        reasons.push_back(absl::StrCat("tensor ", Shown(t.name()), " is ",
                                       Shown(t.dtype()),
                                       ", want F32, BF16 or F16"));
      }
    }
  };
  check(m.tensors());
  check(m.base_tensors());
}

}  // namespace

const KindRules* FindKind(absl::string_view name) {
  for (const KindRules& kind : Kinds()) {
    if (name == kind.name) return &kind;
  }
  return nullptr;
}

std::string KindNames() {
  return Names([](const KindRules&) { return true; });
}

std::string KindNamesOn(absl::string_view base) {
  return Names([&](const KindRules& kind) {
    return kind.base != nullptr && base == kind.base;
  });
}

const char* WeightsFile(absl::string_view kind) {
  const KindRules* rules = FindKind(kind);
  return rules == nullptr ? "weights.safetensors" : rules->weights;
}

std::string WeightsSha256(const v1::ExpertManifest& manifest) {
  for (const v1::FileDigest& file : manifest.files()) {
    if (file.path() == WeightsFile(manifest.kind())) return file.sha256();
  }
  return "";
}

bool IsWhole(absl::string_view name) {
  const KindRules* kind = FindKind(name);
  return kind != nullptr && kind->whole;
}

std::string Shown(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 100)), "\"");
}

void CheckHex(absl::string_view name, const std::string& digest,
              Reasons& reasons) {
  if (IsHexDigest(digest)) return;
  reasons.push_back(absl::StrCat(name, " is ", Shown(digest),
                                 ", want 64 lower-case hex digits"));
}

void CheckTensorTables(const v1::ExpertManifest& m, const KindRules* kind,
                       Reasons& reasons) {
  const bool whole = kind != nullptr && kind->whole;
  if (m.tensors_size() == 0 && !(whole && m.base_tensors_size() > 0)) {
    reasons.push_back("tensors is empty");
  }
  if (m.base_tensors_size() > 0 && !whole) {
    reasons.push_back(
        "base_tensors is not empty, want it in kinds that are whole models");
  }
  std::set<std::string> seen;
  const auto check = [&](const char* name, const auto& table) {
    for (const v1::TensorDigest& t : table) {
      if (!seen.insert(t.name()).second) {
        reasons.push_back(
            absl::StrCat(name, " has ", Shown(t.name()), " twice"));
        continue;
      }
      CheckHex(absl::StrCat("sha256 of tensor ", Shown(t.name())), t.sha256(),
               reasons);
    }
  };
  check("tensors", m.tensors());
  check("base_tensors", m.base_tensors());
  if (kind == nullptr) return;
  if (whole) CheckWholeTensors(m, reasons);
  if (kind->name == std::string("ffn")) CheckFfnTensors(m, reasons);
  if (kind->retrieval) CheckRetrievalTensors(m, reasons);
}

}  // namespace motet::package
