// SPDX-License-Identifier: Apache-2.0
// Linear and its gradients: our product in one fixed order (product.h), or
// the library's.
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/cpu/product.h"
#include "compose/math/kernels.h"

#ifdef MOTET_HAS_DNNL
#include <dnnl.h>
#endif

namespace motet::math::cpu {
namespace {

Operand Rows(const Tensor& t) { return {t.data, t.dtype, t.cols(), false}; }
Operand Columns(const Tensor& t) { return {t.data, t.dtype, t.cols(), true}; }

Arithmetic ArithmeticOf(Product product) {
  return product == Product::kBf16 ? Arithmetic::kBF16 : Arithmetic::kF32;
}

Job ForwardJob(const Tensor& x, const Tensor& w, Tensor y) {
  return {Rows(x), x.rows(), Rows(w), w.rows(),
          x.cols(), false,   y.f32(), w.rows()};
}

#ifdef MOTET_HAS_DNNL
constexpr int64_t kFewRows = 4;  // where the library is slow

// W as f32: libraries are slow with bf16 where the processor lacks it.
const float* Widened(const Tensor& w) {
  if (w.dtype == DType::kF32) return w.f32();
  thread_local Scratch scratch;
  float* wide = scratch.Get(w.size());
  ForPieces(w.rows(), RowsPerPiece(w.cols()), [&](int64_t b, int64_t e) {
    Active().widen(w.bf16() + b * w.cols(), w.dtype, (e - b) * w.cols(),
                   wide + b * w.cols());
  });
  return wide;
}

void Sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k,
           const float* a, int64_t lda, const float* b, int64_t ldb,
           float beta, float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const dnnl_status_t status = dnnl_sgemm(trans_a, trans_b, m, n, k, 1.0f, a,
                                          lda, b, ldb, beta, c, ldc);
  MOTET_CHECK(status == dnnl_success);
}
#endif

}  // namespace

// Matrix product with a weight stored as it is multiplied.
//   y[m,n] = sum_c x[m,c] W[n,c]
// x: [M,C] f32 in.   w: [N,C] f32, bf16 or f16 in.   y: [M,N] f32 out.
// kExact, kBf16: product.h's order; kLibrary: oneDNN's, where it was built
// in, for more rows than a matrix-vector product.
void Linear(const Tensor& x, const Tensor& w, Tensor y, Product product) {
#ifdef MOTET_HAS_DNNL
  const int64_t rows = x.rows(), outputs = w.rows(), cols = x.cols();
  if (product == Product::kLibrary && rows > kFewRows) {
    return Sgemm('N', 'T', rows, outputs, cols, x.f32(), cols, Widened(w),
                 cols, 0.0f, y.f32(), outputs);
  }
#endif
  const Job job = ForwardJob(x, w, y);
  Multiply({&job, 1}, ArithmeticOf(product));
}

void Linears(std::span<const LinearTask> tasks, Product product) {
  if (product == Product::kLibrary) {
    for (const LinearTask& t : tasks) Linear(t.x, t.w, t.y, product);
    return;
  }
  std::vector<Job> jobs;
  jobs.reserve(tasks.size());
  for (const LinearTask& t : tasks) {
    jobs.push_back(ForwardJob(t.x, t.w, t.y));
  }
  Multiply(jobs, ArithmeticOf(product));
}

//   dx[m,c] += sum_n dy[m,n] W[n,c]      dW[n,c] += sum_m dy[m,n] x[m,c]
void LinearBackward(const Tensor& x, const Tensor& w, const Tensor& dy,
                    Tensor dx, Tensor dw, Product product) {
  const int64_t rows = x.rows(), outputs = w.rows(), cols = x.cols();
  MOTET_CHECK(rows > 0 || !dw.fresh);  // a sum of nothing writes nothing
#ifdef MOTET_HAS_DNNL
  if (product == Product::kLibrary) {
    if (!dx.empty()) {
      Sgemm('N', 'N', rows, cols, outputs, dy.f32(), outputs, Widened(w),
            cols, dx.fresh ? 0.0f : 1.0f, dx.f32(), cols);
    }
    if (!dw.empty()) {
      Sgemm('T', 'N', outputs, cols, rows, dy.f32(), outputs, x.f32(), cols,
            dw.fresh ? 0.0f : 1.0f, dw.f32(), cols);
    }
    return;
  }
#endif
  Job jobs[2];
  size_t count = 0;
  if (!dx.empty()) {
    jobs[count++] = {Rows(dy), rows,      Columns(w), cols,
                     outputs,  !dx.fresh, dx.f32(),   cols};
  }
  if (!dw.empty()) {
    jobs[count++] = {Columns(dy), outputs,   Columns(x), cols,
                     rows,        !dw.fresh, dw.f32(),   cols};
  }
  Multiply({jobs, count}, ArithmeticOf(product));
}

}  // namespace motet::math::cpu
