// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

// The first key that the row at a position sees.
int64_t FirstSeen(int64_t position, const HeadShape& shape) {
  return shape.window == 0 ? 0
                           : std::max<int64_t>(0, position - shape.window + 1);
}

double Dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// Number i of a cache or a tensor, f32 or bf16.
double Number(const void* data, DType dtype, int64_t i) {
  return dtype == DType::kF32
             ? static_cast<const float*>(data)[i]
             : WidenBf16(static_cast<const uint16_t*>(data)[i]);
}

}  // namespace

// Attention with grouped key-value heads, fresh rows or a cache.
//   s[i,j] = q_i.k_j / sqrt D, j <= past + i, with a window W also
//   j > past + i - W;   y_i = sum_j softmax(s)_j v_j
// Without the causal rule j runs over the whole segment, which has no cache.
// q: [M,H*D] in.   k, v: [M,G*D] in, unused by segments with a cache.
// y: [M,H*D] out.   lse: [M,H] out, log sum_j exp s[i,j]; may be empty.
// Query head h reads key-value head h / (H / G).       [arXiv 1706.03762]
void Attention(const Tensor& q, const Tensor& k, const Tensor& v,
               const HeadShape& shape, std::span<const Segment> segments,
               Tensor y, Tensor lse) {
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const int64_t q_cols = shape.heads * dim, kv_cols = shape.kv_heads * dim;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  std::vector<double> p;
  for (const Segment& s : segments) {
    const bool cached = s.keys != nullptr;
    MOTET_CHECK(shape.causal || !cached);
    const int64_t stride = cached ? s.row_stride : kv_cols;
    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t visible = shape.causal ? s.past + i + 1 : s.rows;
      const int64_t begin = FirstSeen(s.past + i, shape);
      for (int64_t h = 0; h < shape.heads; ++h) {
        const int64_t kv = h / group * dim;
        const void* keys = cached ? s.keys : k.f32() + s.row * kv_cols;
        const void* values = cached ? s.values : v.f32() + s.row * kv_cols;
        const float* query = q.f32() + (s.row + i) * q_cols + h * dim;
        p.assign(visible, 0);
        double top = -INFINITY, total = 0;
        for (int64_t j = begin; j < visible; ++j) {
          double sum = 0;
          for (int64_t d = 0; d < dim; ++d) {
            sum += double{query[d]} * Number(keys, s.dtype, j * stride + kv + d);
          }
          p[j] = sum * scale;
          top = std::max(top, p[j]);
        }
        for (int64_t j = begin; j < visible; ++j) {
          total += p[j] = std::exp(p[j] - top);
        }
        for (int64_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int64_t j = begin; j < visible; ++j) {
            sum += p[j] * Number(values, s.dtype, j * stride + kv + d);
          }
          y.f32()[(s.row + i) * q_cols + h * dim + d] =
              static_cast<float>(sum / total);
        }
        if (!lse.empty()) {
          lse.f32()[(s.row + i) * shape.heads + h] =
              static_cast<float>(top + std::log(total));
        }
      }
    }
  }
}

//   p = exp(s - lse)    dv_j += sum_i p dy_i
//   ds = p (dy_i.v_j - dy_i.y_i)
//   dq_i += sum_j ds k_j / sqrt D    dk_j += sum_i ds q_i / sqrt D
// Segments without a cache only.
void AttentionBackward(const Tensor& q, const Tensor& k, const Tensor& v,
                       const HeadShape& shape,
                       std::span<const Segment> segments, const Tensor& y,
                       const Tensor& lse, const Tensor& dy, Tensor dq,
                       Tensor dk, Tensor dv) {
  ClearFresh({dq, dk, dv});
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const int64_t q_cols = shape.heads * dim, kv_cols = shape.kv_heads * dim;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  for (const Segment& s : segments) {
    MOTET_CHECK(s.keys == nullptr && s.past == 0);
    std::vector<double> sum_k(s.rows * kv_cols), sum_v(s.rows * kv_cols);
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t kv = h / group * dim;
      for (int64_t i = 0; i < s.rows; ++i) {
        const int64_t at = (s.row + i) * q_cols + h * dim;
        const float* query = q.f32() + at;
        const float* d = dy.f32() + at;
        const double inner = Dot(d, y.f32() + at, dim);
        const double log_sum = lse.f32()[(s.row + i) * shape.heads + h];
        std::vector<double> sum_q(dim);
        for (int64_t j = FirstSeen(i, shape);
             j < (shape.causal ? i + 1 : s.rows); ++j) {
          const float* key = k.f32() + (s.row + j) * kv_cols + kv;
          const float* value = v.f32() + (s.row + j) * kv_cols + kv;
          const double p =
              std::exp(Dot(query, key, dim) * scale - log_sum);
          const double ds = p * (Dot(d, value, dim) - inner) * scale;
          for (int64_t c = 0; c < dim; ++c) {
            sum_q[c] += ds * key[c];
            sum_k[j * kv_cols + kv + c] += ds * query[c];
            sum_v[j * kv_cols + kv + c] += p * d[c];
          }
        }
        for (int64_t c = 0; c < dim && !dq.empty(); ++c) {
          dq.f32()[at + c] += static_cast<float>(sum_q[c]);
        }
      }
    }
    for (int64_t i = 0; i < s.rows * kv_cols; ++i) {
      const int64_t at = s.row * kv_cols + i;
      if (!dk.empty()) dk.f32()[at] += static_cast<float>(sum_k[i]);
      if (!dv.empty()) dv.f32()[at] += static_cast<float>(sum_v[i]);
    }
  }
}

}  // namespace motet::math::reference
