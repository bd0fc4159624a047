// SPDX-License-Identifier: Apache-2.0
// What a manifest says of files and tensors, against the files and tensors.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"
#include "proto/digest.h"

namespace motet::package {
namespace {

std::string DigestOf(const math::Tensor& tensor) {
  return proto::Hex(proto::Sha256(
      absl::string_view(static_cast<const char*>(tensor.data),
                        static_cast<size_t>(tensor.bytes()))));
}

// Of a mapped tensor, whose pages are let go piece by piece: a package of any
// size is checked in little memory.
std::string DigestOfMapped(const math::Tensor& tensor) {
  constexpr int64_t kPiece = int64_t{16} << 20;
  proto::Sha256Stream stream;
  for (int64_t at = 0; at < tensor.bytes(); at += kPiece) {
    math::Tensor part = tensor;
    part.dtype = math::DType::kU8;
    part.data = static_cast<char*>(tensor.data) + at;
    part.shape = {std::min(kPiece, tensor.bytes() - at)};
    stream.Update({static_cast<const char*>(part.data),
                   static_cast<size_t>(part.bytes())});
    SafetensorsFile::LetGo(part);
  }
  return proto::Hex(stream.Finish());
}

bool SameShape(const v1::TensorDigest& entry, const math::Tensor& tensor) {
  if (entry.shape_size() != tensor.shape.rank) return false;
  for (int i = 0; i < tensor.shape.rank; ++i) {
    if (entry.shape(i) != static_cast<uint64_t>(tensor.shape.dim[i])) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::vector<std::string> CheckFiles(
    const v1::ExpertManifest& manifest,
    const std::map<std::string, FileFacts>& folder) {
  std::vector<std::string> reasons;
  std::map<std::string, FileFacts> left = folder;
  for (const v1::FileDigest& file : manifest.files()) {
    const auto it = left.find(file.path());
    if (it == left.end()) {
      reasons.push_back(
          absl::StrCat("file ", Shown(file.path()), " is missing"));
      continue;
    }
    if (it->second.size_bytes != file.size_bytes()) {
      reasons.push_back(absl::StrCat("file ", Shown(file.path()), " has ",
                                     it->second.size_bytes, " bytes, want ",
                                     file.size_bytes()));
    }
    if (it->second.sha256 != file.sha256()) {
      reasons.push_back(absl::StrCat("file ", Shown(file.path()),
                                     " has sha256 ", it->second.sha256,
                                     ", want ", Shown(file.sha256())));
    }
    left.erase(it);
  }
  for (const auto& [path, facts] : left) {
    reasons.push_back(
        absl::StrCat("file ", Shown(path), " is not in the manifest"));
  }
  return reasons;
}

std::vector<std::string> CheckTensors(const v1::ExpertManifest& manifest,
                                      const SafetensorsFile& weights) {
  std::vector<std::string> reasons;
  const char* const file = WeightsFile(manifest.kind());
  std::map<std::string, math::Tensor> left;
  for (const SafetensorsFile::Entry& e : weights.entries()) {
    left[e.name] = e.tensor;
  }
  for (const v1::TensorDigest& t : manifest.tensors()) {
    const auto it = left.find(t.name());
    if (it == left.end()) {
      reasons.push_back(
          absl::StrCat(file, " lacks tensor ", Shown(t.name())));
      continue;
    }
    const math::Tensor& tensor = it->second;
    if (t.dtype() != math::Name(tensor.dtype) || !SameShape(t, tensor)) {
      reasons.push_back(absl::StrCat(
          "tensor ", Shown(t.name()), " is ", math::Name(tensor.dtype), " ",
          tensor.shape.ToString(), ", the manifest says otherwise"));
    }
    if (const std::string digest = DigestOfMapped(tensor);
        digest != t.sha256()) {
      reasons.push_back(absl::StrCat("tensor ", Shown(t.name()),
                                     " has sha256 ", digest, ", want ",
                                     Shown(t.sha256())));
    }
    left.erase(it);
  }
  for (const auto& [name, tensor] : left) {
    reasons.push_back(absl::StrCat(file, " has tensor ", Shown(name),
                                   ", the manifest does not"));
  }
  return reasons;
}

v1::TensorDigest ShapeOfTensor(const std::string& name,
                               const math::Tensor& tensor) {
  v1::TensorDigest t;
  t.set_name(name);
  t.set_dtype(math::Name(tensor.dtype));
  for (int i = 0; i < tensor.shape.rank; ++i) {
    t.add_shape(static_cast<uint64_t>(tensor.shape.dim[i]));
  }
  return t;
}

v1::TensorDigest DigestOfTensor(const std::string& name,
                                const math::Tensor& tensor) {
  v1::TensorDigest t = ShapeOfTensor(name, tensor);
  t.set_sha256(DigestOf(tensor));
  return t;
}

std::vector<v1::TensorDigest> TensorTable(const SafetensorsFile& weights) {
  std::map<std::string, v1::TensorDigest> table;
  for (const SafetensorsFile::Entry& e : weights.entries()) {
    table[e.name] = DigestOfTensor(e.name, e.tensor);
  }
  std::vector<v1::TensorDigest> sorted;
  for (auto& [name, entry] : table) sorted.push_back(std::move(entry));
  return sorted;
}

std::vector<std::string> CheckBase(const v1::ExpertManifest& manifest,
                                   const model::ModelConfig& config,
                                   const SafetensorsFile& anchor) {
  std::vector<std::string> reasons;
  const v1::ModelShape& m = manifest.model();
  const auto same = [&](const char* name, int64_t says, int64_t is) {
    if (says == is) return;
    reasons.push_back(absl::StrCat("model.", name, " is ", says,
                                   ", config.json has ", is));
  };
  same("layers", m.layers(), config.layers);
  same("width", m.width(), config.width);
  same("ffn_width", m.ffn_width(), config.ffn_width);
  same("vocabulary", m.vocabulary(), config.vocabulary);
  const bool post = config.block == model::Block::kPostNorm;
  if (m.block() != (post ? "olmo2" : "llama")) {
    reasons.push_back(absl::StrCat("model.block is ", Shown(m.block()),
                                   ", config.json has ",
                                   post ? "olmo2" : "llama"));
  }
  // By the file, not by the manifest, whose numbers may be wild.
  const int64_t c = config.width;
  std::map<std::string, math::Shape> wanted;
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string layer = absl::StrCat("layers.", l, ".");
    wanted[layer + "mean"] = {c};
    wanted[layer + "covariance"] = {c, c};
    wanted[layer + "precision"] = {c, c};
  }
  for (const SafetensorsFile::Entry& e : anchor.entries()) {
    const auto it = wanted.find(e.name);
    if (it == wanted.end()) {
      reasons.push_back(absl::StrCat("anchor.safetensors has tensor ",
                                     Shown(e.name), ", which is unknown"));
      continue;
    }
    if (e.tensor.dtype != math::DType::kF32 ||
        !(e.tensor.shape == it->second)) {
      reasons.push_back(absl::StrCat(
          "anchor tensor ", Shown(e.name), " is ", math::Name(e.tensor.dtype),
          " ", e.tensor.shape.ToString(), ", want F32 ",
          it->second.ToString()));
    }
    wanted.erase(it);
  }
  for (const auto& [name, shape] : wanted) {
    reasons.push_back(absl::StrCat("anchor.safetensors lacks ", name));
  }
  return reasons;
}

}  // namespace motet::package
