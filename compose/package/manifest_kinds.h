// SPDX-License-Identifier: Apache-2.0
// The kinds of packages, one row each: what a manifest of the kind must have.
// A new kind is a row here and, where it has tensors of its own, a rule in
// manifest_kinds.cc; CheckManifest walks the table.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "manifest.pb.h"

namespace motet::package {

using Reasons = std::vector<std::string>;

inline constexpr uint32_t kMaxLayers = 4096;

enum class Presence { kNone, kMay, kMust };

struct KindRules {
  const char* name;
  const char* base;   // the kind of its base; null: it is one
  bool frozen;        // was trained beside frozen tensors: frozen_sha256
  Presence anchored;  // means and thresholds
  bool moments;       // may publish second moments
  bool whole;         // a whole model: tensors and base_tensors together
  bool own_width;     // whose FFN width need not be the base's
  std::vector<const char*> files;  // beside its weights and README.md
  // Of encoders and what belongs to them (manifest_retrieval.h).
  bool retrieval = false;
  const char* weights = "weights.safetensors";  // the file of `tensors`
  // Files that there may be; in these kinds no others.
  std::vector<const char*> may = {};
};
// Null when there is no such kind.
const KindRules* FindKind(absl::string_view name);
std::string KindNames();        // "base, ffn, ... or sized"
// Those whose base is of the kind.
std::string KindNamesOn(absl::string_view base);
bool IsWhole(absl::string_view name);
// The file that `tensors` of this kind are of; "weights.safetensors" of an
// unknown one. And its digest by the manifest, "" where it has none.
const char* WeightsFile(absl::string_view kind);
std::string WeightsSha256(const v1::ExpertManifest& manifest);

// tensors and base_tensors, by themselves and for the kind (null: unknown).
void CheckTensorTables(const v1::ExpertManifest& m, const KindRules* kind,
                       Reasons& reasons);
// owner/name@1.2.3, as the registry takes it.
bool IsPackageId(absl::string_view id);
void CheckHex(absl::string_view name, const std::string& digest,
              Reasons& reasons);
// In quotes, escaped, cut to 100 bytes.
std::string Shown(absl::string_view text);

}  // namespace motet::package
