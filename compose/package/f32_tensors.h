// SPDX-License-Identifier: Apache-2.0
// Tensors of files matched with a table of f32 weights: what lies on disk is
// offered by name, the table takes what it lists, and everything that does
// not fit comes out as one error.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "compose/math/tensor.h"

namespace motet::package {

class F32Tensors {
 public:
  // `copies` keeps the exact F32 copies of BF16 and F16 tensors; F32 ones
  // are used where they lie.
  explicit F32Tensors(std::deque<std::vector<float>>& copies)
      : copies_(copies) {}

  // name must outlive this object.
  void Offer(absl::string_view name, const math::Tensor& tensor);
  // Leaves tensor as it was when the offered one does not fit.
  void Take(const std::string& name, const math::Shape& shape,
            math::Tensor& tensor);
  // InvalidArgument when names came twice, tensors were missing, had another
  // shape or dtype or held infinities or NaN, or when nobody took them.
  absl::Status Finish(absl::string_view where);

 private:
  std::deque<std::vector<float>>& copies_;
  absl::flat_hash_map<absl::string_view, math::Tensor> left_;
  std::vector<std::string> problems_;
};

}  // namespace motet::package
