// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_dense.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"

namespace motet::package {
namespace {

using Table = std::map<std::string, const v1::TensorDigest*>;

template <typename Tensors>
Table ByName(const Tensors& tensors) {
  Table table;
  for (const v1::TensorDigest& t : tensors) table[t.name()] = &t;
  return table;
}

bool SameShape(const v1::TensorDigest& a, const v1::TensorDigest& b) {
  return std::equal(a.shape().begin(), a.shape().end(), b.shape().begin(),
                    b.shape().end());
}

std::string ShapeText(const v1::TensorDigest& t) {
  return absl::StrCat("[", absl::StrJoin(t.shape(), ", "), "]");
}

// The base's tensor in a branch whose FFNs have `ffn_width` rows.
v1::TensorDigest WithWidth(v1::TensorDigest t, uint64_t ffn_width) {
  if (t.shape_size() != 2) return t;
  if (absl::EndsWith(t.name(), ".mlp.gate_proj.weight") ||
      absl::EndsWith(t.name(), ".mlp.up_proj.weight")) {
    t.set_shape(0, ffn_width);
  } else if (absl::EndsWith(t.name(), ".mlp.down_proj.weight")) {
    t.set_shape(1, ffn_width);
  }
  return t;
}

}  // namespace

DenseContent SplitDense(const std::vector<NamedTensor>& branch,
                        const v1::ExpertManifest& base) {
  const Table known = ByName(base.tensors());
  DenseContent content;
  for (const NamedTensor& t : branch) {
    const auto it = known.find(t.name);
    v1::TensorDigest digest = DigestOfTensor(t.name, t.tensor);
    if (it != known.end() && SameShape(digest, *it->second) &&
        digest.dtype() == it->second->dtype() &&
        digest.sha256() == it->second->sha256()) {
      content.base_tensors.push_back(std::move(digest));
    } else {
      content.weights.push_back(t);
    }
  }
  std::sort(content.base_tensors.begin(), content.base_tensors.end(),
            [](const auto& a, const auto& b) { return a.name() < b.name(); });
  return content;
}

std::vector<std::string> CheckDense(const v1::ExpertManifest& dense,
                                    const v1::ExpertManifest& base) {
  std::vector<std::string> reasons;
  Table left = ByName(base.tensors());
  const KindRules* kind = FindKind(dense.kind());
  const bool own_width =
      kind != nullptr && kind->own_width &&
      dense.model().ffn_width() != base.model().ffn_width();
  const auto take = [&](const v1::TensorDigest& t, bool same) {
    const auto it = left.find(t.name());
    if (it == left.end()) {
      reasons.push_back(absl::StrCat("tensor ", Shown(t.name()),
                                     " is not one of the base's"));
      return;
    }
    const v1::TensorDigest want =
        own_width ? WithWidth(*it->second, dense.model().ffn_width())
                  : *it->second;
    left.erase(it);
    if (!SameShape(t, want)) {
      reasons.push_back(absl::StrCat("tensor ", Shown(t.name()), " is ",
                                     ShapeText(t), own_width
                                         ? ", by the base and ffn_width "
                                         : ", the base's is ",
                                     ShapeText(want)));
    } else if (same &&
               (t.sha256() != want.sha256() || t.dtype() != want.dtype())) {
      reasons.push_back(absl::StrCat(
          "tensor ", Shown(t.name()), " should be the base's, by sha256 ",
          t.sha256(), ", the base's is ", want.sha256()));
    }
  };
  for (const v1::TensorDigest& t : dense.tensors()) take(t, false);
  for (const v1::TensorDigest& t : dense.base_tensors()) take(t, true);
  for (const auto& [name, t] : left) {
    reasons.push_back(absl::StrCat("tensor ", Shown(name), " is missing"));
  }
  return reasons;
}

math::Tensor DenseTensor(const SafetensorsFile& own,
                         const SafetensorsFile& base,
                         const std::string& name) {
  const math::Tensor tensor = own.Find(name);
  return tensor.empty() ? base.Find(name) : tensor;
}

std::vector<std::string> CheckFisher(const v1::ExpertManifest& dense,
                                     const SafetensorsFile& fisher) {
  std::vector<std::string> reasons;
  Table left = ByName(dense.tensors());
  left.merge(ByName(dense.base_tensors()));
  for (const SafetensorsFile::Entry& e : fisher.entries()) {
    const auto it = left.find(e.name);
    if (it == left.end()) {
      reasons.push_back(absl::StrCat(kFisherFile, " has tensor ",
                                     Shown(e.name),
                                     ", which the model does not have"));
      continue;
    }
    const v1::TensorDigest got = ShapeOfTensor(e.name, e.tensor);
    if (!SameShape(got, *it->second) || got.dtype() != "F32") {
      reasons.push_back(absl::StrCat(kFisherFile, " tensor ", Shown(e.name),
                                     " is ", got.dtype(), " ", ShapeText(got),
                                     ", want F32 ", ShapeText(*it->second)));
    }
    left.erase(it);
  }
  for (const auto& [name, t] : left) {
    reasons.push_back(absl::StrCat(kFisherFile, " lacks tensor ",
                                   Shown(name)));
  }
  return reasons;
}

}  // namespace motet::package
