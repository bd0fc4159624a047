// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/attention.cc. One task is one key-value head of one
// segment: its query heads in ascending order, key blocks outside, blocks of
// query rows inside. Probabilities are made again from the scores and the
// stored log-sum-exp.
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/math/cpu/attention_tiles.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

struct Call {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const HeadShape& shape;
  const Tensor& y;
  const Tensor& lse;
  const Tensor& dy;
  Tensor& dq;
  Tensor& dk;
  Tensor& dv;
};

// Rows of one head, at `to` of d's rows.
void AddRows(const float* from, int64_t padded, int64_t rows, int64_t cols,
             int64_t stride, const Tensor& d, int64_t to) {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = static_cast<float*>(d.data) + to + r * stride;
    if (d.fresh) {
      std::copy_n(from + r * padded, cols, out);
    } else {
      Active().add(out, from + r * padded, cols, out);
    }
  }
}

// Hands out parts of one piece of scratch memory.
class Parts {
 public:
  explicit Parts(float* from) : at_(from) {}
  float* Take(int64_t floats) {
    float* part = at_;
    at_ += floats;
    return part;
  }

 private:
  float* at_;
};

class Worker {
 public:
  Worker(const Call& call, const Segment& segment, int64_t kv_head)
      : call_(call),
        shape_(call.shape),
        ops_(OpsFor(call.shape)),
        kv_head_(kv_head),
        dim_(shape_.head_dim),
        padded_(Pad(dim_)),
        group_(shape_.heads / shape_.kv_heads),
        q_cols_(shape_.heads * dim_),
        kv_cols_(shape_.kv_heads * dim_),
        rows_(segment.rows),
        row_(segment.row),
        row_panel_(ops_.Words(dim_) * kPanel),
        col_panel_(ops_.Words(rows_ + 1) * kPanel) {}

  void Run() {
    Layout();
    const int64_t at = row_ * kv_cols_ + kv_head_ * dim_;
    PackRowsOf(ops_, call_.k.f32() + at, kv_cols_, rows_, dim_, k_rows_);
    PackRowsOf(ops_, call_.v.f32() + at, kv_cols_, rows_, dim_, v_rows_);
    PackColumnsOf(ops_, call_.k.f32() + at, kv_cols_, rows_, dim_, k_cols_,
                  col_panel_);
    for (int64_t g = 0; g < group_; ++g) Head(kv_head_ * group_ + g);
    if (!call_.dk.empty()) {
      AddRows(dk_, padded_, rows_, dim_, kv_cols_, call_.dk, at);
    }
    if (!call_.dv.empty()) {
      AddRows(dv_, padded_, rows_, dim_, kv_cols_, call_.dv, at);
    }
  }

 private:
  void Layout() {
    const int64_t whole = (rows_ + kBlock - 1) / kBlock * kBlock;
    const int64_t by_row = whole / kPanel * row_panel_;
    const int64_t by_col = padded_ / kPanel * col_panel_;
    const int64_t small = ops_.Words(kBlock) * kBlock;
    thread_local Scratch scratch;
    Parts parts(scratch.Get(4 * by_row + 3 * by_col + 3 * whole * padded_ +
                            2 * kBlock * kBlock + small + whole));
    k_rows_ = parts.Take(by_row);
    v_rows_ = parts.Take(by_row);
    q_rows_ = parts.Take(by_row);
    d_rows_ = parts.Take(by_row);
    k_cols_ = parts.Take(by_col);
    q_cols_of_ = parts.Take(by_col);
    d_cols_of_ = parts.Take(by_col);
    dq_ = parts.Take(whole * padded_);
    dk_ = parts.Take(whole * padded_);
    dv_ = parts.Take(whole * padded_);
    p_ = parts.Take(kBlock * kBlock);
    ds_ = parts.Take(kBlock * kBlock);
    small_ = parts.Take(small);
    inner_ = parts.Take(whole);
    std::fill_n(dk_, 2 * whole * padded_, 0.0f);
  }

  void Head(int64_t head) {
    const int64_t from = row_ * q_cols_ + head * dim_;
    const float* q = call_.q.f32() + from;
    const float* d = call_.dy.f32() + from;
    PackRowsOf(ops_, q, q_cols_, rows_, dim_, q_rows_);
    PackRowsOf(ops_, d, q_cols_, rows_, dim_, d_rows_);
    PackColumnsOf(ops_, q, q_cols_, rows_, dim_, q_cols_of_, col_panel_);
    PackColumnsOf(ops_, d, q_cols_, rows_, dim_, d_cols_of_, col_panel_);
    for (int64_t i = 0; i < rows_; ++i) {
      inner_[i] = Active().dot(d + i * q_cols_,
                               call_.y.f32() + from + i * q_cols_, dim_);
    }
    std::fill_n(dq_, rows_ * padded_, 0.0f);
    const int64_t window = shape_.window;
    for (int64_t j = 0; j < rows_; j += kBlock) {
      const int64_t present = std::min(kBlock, rows_ - j);
      const int64_t end =
          window == 0 ? rows_ : std::min(rows_, j + kBlock + window - 1);
      for (int64_t i = shape_.causal ? j : 0; i < end; i += kBlock) {
        Block(head, i, std::min(kBlock, end - i), j, present);
      }
    }
    if (!call_.dq.empty()) {
      AddRows(dq_, padded_, rows_, dim_, q_cols_, call_.dq, from);
    }
  }

  // Query rows [i, i + count) against keys [j, j + present).
  void Block(int64_t head, int64_t i, int64_t count, int64_t j,
             int64_t present) {
    const int64_t wide = Pad(present);
    const auto scores = [&](const float* rows, const float* keys, float* to) {
      MultiplyPanels(ops_, rows + i / kPanel * row_panel_, row_panel_, count,
                     keys + j / kPanel * row_panel_, row_panel_,
                     wide / kPanel, dim_, false, to, kBlock);
    };
    scores(q_rows_, k_rows_, p_);
    scores(d_rows_, v_rows_, ds_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    for (int64_t r = 0; r < count; ++r) {
      Active().softmax_block_backward(
          p_ + r * kBlock, ds_ + r * kBlock, wide,
          shape_.causal ? std::min(i + r + 1 - j, present) : present, scale,
          call_.lse.f32()[(row_ + i + r) * shape_.heads + head],
          inner_[i + r]);
      const int64_t unseen = Unseen(i + r, j, shape_.window);
      std::fill_n(p_ + r * kBlock, unseen, 0.0f);
      std::fill_n(ds_ + r * kBlock, unseen, 0.0f);
    }
    const int64_t d_panels = padded_ / kPanel;
    // dV += P^T dY, dK += dS^T Q: the terms are query rows.
    const auto by_keys = [&](const float* weights, const float* columns,
                             float* to) {
      const int64_t words = ops_.Words(count) * kPanel;
      PackColumnsOf(ops_, weights, kBlock, count, present, small_, words);
      MultiplyPanels(ops_, small_, words, present,
                     columns + ops_.Words(i) * kPanel, col_panel_, d_panels,
                     count, true, to + j * padded_, padded_);
    };
    by_keys(p_, d_cols_of_, dv_);
    by_keys(ds_, q_cols_of_, dk_);
    // dQ += dS K: the terms are keys.
    PackRowsOf(ops_, ds_, kBlock, count, present, small_);
    MultiplyPanels(ops_, small_, ops_.Words(present) * kPanel, count,
                   k_cols_ + ops_.Words(j) * kPanel, col_panel_, d_panels,
                   present, true, dq_ + i * padded_, padded_);
  }

  const Call& call_;
  const HeadShape& shape_;
  const PanelOps& ops_;
  const int64_t kv_head_, dim_, padded_, group_, q_cols_, kv_cols_, rows_;
  const int64_t row_;  // of the tensors, the segment's first
  const int64_t row_panel_, col_panel_;  // words of a panel
  // By rows: terms are the head's dimensions; by columns: terms are rows.
  float *k_rows_, *v_rows_, *q_rows_, *d_rows_;
  float *k_cols_, *q_cols_of_, *d_cols_of_;
  float *dq_, *dk_, *dv_;
  float *p_, *ds_, *small_, *inner_;
};

}  // namespace

void AttentionBackward(const Tensor& q, const Tensor& k, const Tensor& v,
                       const HeadShape& shape,
                       std::span<const Segment> segments, const Tensor& y,
                       const Tensor& lse, const Tensor& dy, Tensor dq,
                       Tensor dk, Tensor dv) {
  const Call call{q, k, v, shape, y, lse, dy, dq, dk, dv};
  const int64_t heads = shape.kv_heads;
  ForPieces(segments.size() * heads, 1, [&](int64_t b, int64_t e) {
    for (int64_t t = b; t < e; ++t) {
      const Segment& s = segments[t / heads];
      MOTET_CHECK(s.keys == nullptr && s.past == 0);
      if (s.rows > 0) Worker(call, s, t % heads).Run();
    }
  });
}

}  // namespace motet::math::cpu
