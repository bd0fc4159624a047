// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_branch.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/manifest_kinds.h"
#include "proto/error.h"

namespace motet::package {
namespace {

using math::DType;
using math::Tensor;

// Vectors are f32 in the engine; matrices stay where they lie.
Tensor AsStored(const Tensor& tensor,
                std::vector<std::unique_ptr<float[]>>& widened) {
  if (tensor.shape.rank != 1 || tensor.dtype == DType::kF32) return tensor;
  const int64_t n = tensor.size();
  auto numbers = std::make_unique<float[]>(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    numbers[static_cast<size_t>(i)] = tensor.dtype == DType::kBF16
                                          ? math::WidenBf16(tensor.bf16()[i])
                                          : math::WidenF16(tensor.bf16()[i]);
  }
  Tensor f32;
  f32.data = numbers.get();
  f32.shape = tensor.shape;
  widened.push_back(std::move(numbers));
  return f32;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadBranch(
    const OpenedPackage& expert, const LoadedModel& base) {
  const v1::ExpertManifest& m = expert.manifest;
  const std::string where = absl::StrCat("expert ", m.id());
  if (!IsWhole(m.kind())) {
    return proto::Invalid(where, absl::StrCat("kind \"", m.kind(), "\""),
                          "a kind that is a whole model",
                          "an expert of this kind runs beside its base only");
  }
  auto branch = std::make_unique<LoadedModel>();
  branch->config = base.config;
  branch->config.ffn_width = m.model().ffn_width();
  branch->files = base.files;
  branch->files.push_back(expert.weights);
  std::map<std::string, Tensor> shared;
  model::ModelWeights views = base.weights;
  model::VisitWeights(base.config, views,
                      [&](const std::string& name, const math::Shape&,
                          Tensor& tensor) { shared[name] = tensor; });
  std::vector<std::string> problems;
  model::VisitWeights(
      branch->config, branch->weights,
      [&](const std::string& name, const math::Shape& shape, Tensor& tensor) {
        const Tensor own = expert.weights->Find(name);
        tensor = own.empty() ? shared[name] : AsStored(own, branch->widened);
        if (tensor.empty()) {
          problems.push_back(absl::StrCat(name, " is missing"));
        } else if (!(tensor.shape == shape)) {
          problems.push_back(absl::StrCat(name, " is ", tensor.shape.ToString(),
                                          ", want ", shape.ToString()));
        }
      });
  if (!problems.empty()) {
    return proto::Invalid(where, absl::StrJoin(problems, ", "),
                          "a branch of the base", "fetch the package again");
  }
  if (branch->config.tied_head) branch->weights.head = branch->weights.embed;
  return branch;
}

}  // namespace motet::package
