// SPDX-License-Identifier: Apache-2.0
// The limit that a training step is held against: its matrix products and
// nothing else, one after another by the BLAS library (oneDNN), in f32 or
// with bf16 factors and f32 results. Plain row-major operands, as a caller
// has them; of the library's interfaces the faster one is taken, product by
// product.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace motet::bench {

// y [m,n] = op(a) op(b) over k terms, `times` a step.
struct MatrixProduct {
  bool trans_a, trans_b;
  int64_t m, n, k;
  int64_t times;
};

class ProductList {
 public:
  explicit ProductList(bool bf16) : bf16_(bf16) {}
  void Add(const MatrixProduct& product);
  // The forward product of y = x W^T, x [rows,cols], W [outputs,cols], and
  // those of its backward that are asked for; `times` a step.
  void AddLinear(int64_t rows, int64_t cols, int64_t outputs, int64_t times,
                 bool dx, bool dw);
  void Run() const;
  double flops() const { return flops_; }

 private:
  bool bf16_;
  std::vector<std::unique_ptr<char[]>> storage_;
  std::vector<std::function<void()>> calls_;
  double flops_ = 0;
};

}  // namespace motet::bench
