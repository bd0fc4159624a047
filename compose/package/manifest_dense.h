// SPDX-License-Identifier: Apache-2.0
// Packages that are a whole branch of the base: kinds "dense",
// "attention_ffn" and "sized". Tensors that are the base's bit for bit do not
// travel; the manifest lists their digests
// (base_tensors), which are compared with the base's own table. So a package
// is never larger than all weights, and as small as what was trained.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compose/package/safetensors.h"
#include "manifest.pb.h"

namespace motet::package {

// Optional statistics of a dense package, with which method merge weighs it:
// F = E[(grad log p)^2] of every tensor, F32, by the tensors' names.
inline constexpr char kFisherFile[] = "fisher.safetensors";

struct DenseContent {
  std::vector<NamedTensor> weights;            // differ: weights.safetensors
  std::vector<v1::TensorDigest> base_tensors;  // the base's, by name
};
// Sorts a branch's tensors by whether they are the base's, by dtype, shape
// and digest.
DenseContent SplitDense(const std::vector<NamedTensor>& branch,
                        const v1::ExpertManifest& base);

// Reasons why the two tables together are not a branch of this base: names
// that are missing or too many, other shapes (of kind "sized", than the base's
// with the branch's own FFN width), base_tensors with digests that are not the
// base's.
std::vector<std::string> CheckDense(const v1::ExpertManifest& dense,
                                    const v1::ExpertManifest& base);

// A tensor of the branch, from its own file or the base's. Empty when neither
// has it.
math::Tensor DenseTensor(const SafetensorsFile& own,
                         const SafetensorsFile& base, const std::string& name);

// Reasons why a Fisher file does not belong to this model: tensors that the
// model lacks or that the file lacks, other shapes or dtypes than F32.
std::vector<std::string> CheckFisher(const v1::ExpertManifest& dense,
                                     const SafetensorsFile& fisher);

}  // namespace motet::package
