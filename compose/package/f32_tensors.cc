// SPDX-License-Identifier: Apache-2.0
#include "compose/package/f32_tensors.h"

#include <algorithm>
#include <cstdint>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::package {
namespace {

using math::DType;
using math::Tensor;

bool IsFinite(const Tensor& t) {
  // A finite float times 0 is 0; the others give NaN, which stays.
  float sum = 0;
  for (int64_t i = 0; i < t.size(); ++i) sum += t.f32()[i] * 0.0f;
  return sum == 0;
}

Tensor Widened(const Tensor& t, std::deque<std::vector<float>>& copies) {
  const auto* bits = static_cast<const uint16_t*>(t.data);
  std::vector<float>& copy = copies.emplace_back(t.size());
  for (int64_t i = 0; i < t.size(); ++i) {
    copy[i] = t.dtype == DType::kBF16 ? math::WidenBf16(bits[i])
                                      : math::WidenF16(bits[i]);
  }
  Tensor wide = t;
  wide.dtype = DType::kF32;
  wide.data = copy.data();
  return wide;
}

}  // namespace

void F32Tensors::Offer(absl::string_view name, const Tensor& tensor) {
  if (!left_.emplace(name, tensor).second) {
    problems_.push_back(absl::StrCat(name, " twice"));
  }
}

void F32Tensors::Take(const std::string& name, const math::Shape& shape,
                      Tensor& tensor) {
  const auto it = left_.find(name);
  if (it == left_.end()) {
    problems_.push_back(absl::StrCat(name, " is missing"));
    return;
  }
  const Tensor found = it->second;
  left_.erase(it);
  if (!(found.shape == shape)) {
    problems_.push_back(absl::StrCat(name, " is ", found.shape.ToString(),
                                     ", not ", shape.ToString()));
    return;
  }
  if (found.dtype != DType::kF32 && found.dtype != DType::kBF16 &&
      found.dtype != DType::kF16) {
    problems_.push_back(absl::StrCat(name, " is ", math::Name(found.dtype),
                                     ", not F32, BF16 or F16"));
    return;
  }
  tensor = found.dtype == DType::kF32 ? found : Widened(found, copies_);
  if (!IsFinite(tensor)) {
    problems_.push_back(absl::StrCat(name, " holds infinities or NaN"));
  }
}

absl::Status F32Tensors::Finish(absl::string_view where) {
  std::set<std::string> unknown;
  for (const auto& [name, tensor] : left_) unknown.emplace(name);
  for (const std::string& name : unknown) {
    problems_.push_back(absl::StrCat(name, " is unknown"));
  }
  if (problems_.empty()) return absl::OkStatus();
  const size_t shown = std::min<size_t>(problems_.size(), 50);
  return proto::Invalid(
      where,
      absl::StrCat(
          problems_.size(), " tensors that do not fit (",
          absl::StrJoin(problems_.begin(), problems_.begin() + shown, ", "),
          shown < problems_.size() ? ", ..." : "", ")"),
      "the tensors that the config describes",
      "check that the files belong together");
}

}  // namespace motet::package
