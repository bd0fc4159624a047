// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

float Weight(const Tensor& w, int64_t i) {
  switch (w.dtype) {
    case DType::kBF16:
      return WidenBf16(w.bf16()[i]);
    case DType::kF16:
      return WidenF16(w.bf16()[i]);
    default:
      return w.f32()[i];
  }
}

// What a product sees of a number.
double Seen(float value, Product product) {
  return product == Product::kBf16 ? WidenBf16(NarrowBf16(value)) : value;
}

}  // namespace

// Matrix product with a weight stored as it is multiplied.
//   y[m,n] = sum_c x[m,c] W[n,c]
// x: [M,C] f32 in.   w: [N,C] f32, bf16 or f16 in.   y: [M,N] f32 out.
void Linear(const Tensor& x, const Tensor& w, Tensor y, Product product) {
  const int64_t rows = x.rows(), cols = x.cols(), outputs = w.rows();
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < outputs; ++n) {
      double sum = 0;
      for (int64_t c = 0; c < cols; ++c) {
        sum += Seen(x.f32()[m * cols + c], product) *
               Seen(Weight(w, n * cols + c), product);
      }
      y.f32()[m * outputs + n] = static_cast<float>(sum);
    }
  }
}

void Linears(std::span<const LinearTask> tasks, Product product) {
  for (const LinearTask& t : tasks) Linear(t.x, t.w, t.y, product);
}

//   dx[m,c] += sum_n dy[m,n] W[n,c]      dW[n,c] += sum_m dy[m,n] x[m,c]
void LinearBackward(const Tensor& x, const Tensor& w, const Tensor& dy,
                    Tensor dx, Tensor dw, Product product) {
  ClearFresh({dx, dw});
  const int64_t rows = x.rows(), cols = x.cols(), outputs = w.rows();
  for (int64_t m = 0; m < rows && !dx.empty(); ++m) {
    for (int64_t c = 0; c < cols; ++c) {
      double sum = 0;
      for (int64_t n = 0; n < outputs; ++n) {
        sum += Seen(dy.f32()[m * outputs + n], product) *
               Seen(Weight(w, n * cols + c), product);
      }
      dx.f32()[m * cols + c] += static_cast<float>(sum);
    }
  }
  for (int64_t n = 0; n < outputs && !dw.empty(); ++n) {
    for (int64_t c = 0; c < cols; ++c) {
      double sum = 0;
      for (int64_t m = 0; m < rows; ++m) {
        sum += Seen(dy.f32()[m * outputs + n], product) *
               Seen(x.f32()[m * cols + c], product);
      }
      dw.f32()[n * cols + c] += static_cast<float>(sum);
    }
  }
}

}  // namespace motet::math::reference
