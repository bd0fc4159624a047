// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/attention.cc. Keys are visited in blocks of 64 that
// start at absolute position 0, with an online softmax. What happens to one
// query row - every product's order, every rescaling - is a function of its
// position and the keys before it; tiles, chunks, batch and threads only
// decide which rows are worked on together.
#include <emmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kBlock = 64;       // keys
constexpr int64_t kQueryChunk = 64;  // query rows of one forward task
constexpr int64_t kQueryBlock = 32;  // query rows of a backward block

int64_t Pad(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// to[c*kBlock + r] = from[r*stride + c]; columns past rows are zeros.
void Transpose(const float* from, int64_t stride, int64_t rows, int64_t cols,
               float* to) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float* in = from + r * stride;
    int64_t c = 0;
    for (; c + 4 <= cols; c += 4) {
      __m128 a = _mm_loadu_ps(in + c);
      __m128 b = _mm_loadu_ps(in + stride + c);
      __m128 d = _mm_loadu_ps(in + 2 * stride + c);
      __m128 e = _mm_loadu_ps(in + 3 * stride + c);
      _MM_TRANSPOSE4_PS(a, b, d, e);
      _mm_storeu_ps(to + c * kBlock + r, a);
      _mm_storeu_ps(to + (c + 1) * kBlock + r, b);
      _mm_storeu_ps(to + (c + 2) * kBlock + r, d);
      _mm_storeu_ps(to + (c + 3) * kBlock + r, e);
    }
    for (; c < cols; ++c) {
      for (int64_t i = 0; i < 4; ++i) {
        to[c * kBlock + r + i] = in[i * stride + c];
      }
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      to[c * kBlock + r] = from[r * stride + c];
    }
  }
  for (; r < kBlock; ++r) {
    for (int64_t c = 0; c < cols; ++c) to[c * kBlock + r] = 0;
  }
}

// Rows of `cols` floats at `stride`, copied to rows of `padded`, zeros behind.
void PadRows(const float* from, int64_t stride, int64_t rows, int64_t cols,
             int64_t padded, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * padded, from + r * stride, cols * sizeof(float));
    std::memset(to + r * padded + cols, 0, (padded - cols) * sizeof(float));
  }
}

// With a window W, the row at position p sees keys p - W + 1 on. Which keys of
// the block at j are before that: at most kBlock.
int64_t Unseen(int64_t position, int64_t j, int64_t window) {
  if (window == 0) return 0;
  return std::clamp<int64_t>(position - window + 1 - j, 0, kBlock);
}

// One forward task: all query heads of one key-value head, for a chunk of
// query rows of one segment.
struct Task {
  const Segment* segment;
  int64_t kv_head;
  int64_t first, last;  // query rows within the segment
};

struct ForwardCall {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const HeadShape& shape;
  Tensor& y;
  Tensor& lse;
};

void Forward(const ForwardCall& call, const Task& task) {
  const Isa& isa = Active();
  const Segment& s = *task.segment;
  const int64_t dim = call.shape.head_dim, padded = Pad(dim);
  const int64_t vectors = padded / kLanes;
  const int64_t group = call.shape.heads / call.shape.kv_heads;
  const int64_t q_cols = call.shape.heads * dim;
  const int64_t kv_cols = call.shape.kv_heads * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const bool cached = s.keys != nullptr;
  const int64_t stride = cached ? s.row_stride : kv_cols;
  const int64_t at = task.kv_head * dim;
  const float* keys = at + (cached ? s.keys : call.k.f32() + s.row * kv_cols);
  const float* values =
      at + (cached ? s.values : call.v.f32() + s.row * kv_cols);

  const int64_t rows = task.last - task.first;
  // The keys that row r of the task sees: 0 .. seen(r) - 1.
  const auto seen = [&](int64_t r) {
    return call.shape.causal ? s.past + task.first + r + 1 : s.rows;
  };
  thread_local Scratch scratch;
  float* turned = scratch.Get(dim * kBlock + kBlock * padded +
                              kQueryChunk * kBlock +
                              group * kQueryChunk * (padded + 2));
  float* side = turned + dim * kBlock;
  float* scores = side + kBlock * padded;
  float* out = scores + kQueryChunk * kBlock;
  float* top = out + group * kQueryChunk * padded;
  float* total = top + group * kQueryChunk;
  std::fill_n(out, group * kQueryChunk * padded, 0.0f);
  std::fill_n(top, group * kQueryChunk,
              -std::numeric_limits<float>::infinity());
  std::fill_n(total, group * kQueryChunk, 0.0f);

  const int64_t all = seen(rows - 1);
  const int64_t window = call.shape.window, start = s.past + task.first;
  const int64_t from =
      window == 0 ? 0 : std::max<int64_t>(0, start - window + 1);
  for (int64_t j = from / kBlock * kBlock; j < all; j += kBlock) {
    const int64_t present = std::min(kBlock, all - j);
    Transpose(keys + j * stride, stride, present, dim, turned);
    const float* rows_v = values + j * stride;
    int64_t v_stride = stride;
    if (padded != dim) {
      PadRows(rows_v, stride, present, dim, padded, side);
      rows_v = side;
      v_stride = padded;
    }
    // Row i sees keys 0..past+i: rows before `begin` see none of this block.
    // Rows from `whole` on see it from some key on, from `end` on not at all.
    const int64_t begin =
        call.shape.causal ? std::max(task.first, j - s.past) - task.first : 0;
    int64_t whole = rows, end = rows;
    if (window > 0) {
      whole = std::clamp(j + window - start, begin, rows);
      end = std::clamp(j + kBlock + window - 1 - start, begin, rows);
    }
    for (int64_t g = 0; g < group; ++g) {
      const int64_t head = task.kv_head * group + g;
      const float* q = call.q.f32() + (s.row + task.first) * q_cols +
                       head * dim;
      isa.product(q + begin * q_cols, q_cols, 1, end - begin, dim, turned,
                  kBlock, scores + begin * kBlock, kBlock,
                  Pad(present) / kLanes, false);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t sees = seen(r) - j;
        const int64_t slot = g * kQueryChunk + r;
        std::fill_n(scores + r * kBlock, Unseen(start + r, j, window),
                    -std::numeric_limits<float>::infinity());
        isa.softmax_block(scores + r * kBlock, Pad(present),
                          std::min(sees, present), scale, top + slot,
                          total + slot, out + slot * padded, vectors);
      }
      // Four rows share the keys that the first of them sees; the others add
      // their last few alone. Each row still adds its keys in order, and
      // never a key that it does not see.
      for (int64_t r = begin; r < whole;) {
        const int64_t shared = std::min(seen(r) - j, present);
        int64_t last = std::min(whole, r + 4);
        if (shared == present) last = whole;
        float* o = out + (g * kQueryChunk + r) * padded;
        isa.product(scores + r * kBlock, kBlock, 1, last - r, shared, rows_v,
                    v_stride, o, padded, vectors, true);
        for (int64_t i = r + 1; i < last && shared < present; ++i) {
          const int64_t sees = std::min(seen(i) - j, present);
          isa.product(scores + i * kBlock + shared, kBlock, 1, 1,
                      sees - shared, rows_v + shared * v_stride, v_stride,
                      o + (i - r) * padded, padded, vectors, true);
        }
        r = last;
      }
      for (int64_t r = whole; r < end; ++r) {
        const int64_t unseen = Unseen(start + r, j, window);
        const int64_t sees = std::min(seen(r) - j, present);
        isa.product(scores + r * kBlock + unseen, kBlock, 1, 1, sees - unseen,
                    rows_v + unseen * v_stride, v_stride,
                    out + (g * kQueryChunk + r) * padded, padded, vectors,
                    true);
      }
    }
  }
  for (int64_t g = 0; g < group; ++g) {
    const int64_t head = task.kv_head * group + g;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t slot = g * kQueryChunk + r;
      const int64_t row = s.row + task.first + r;
      const float share = 1.0f / total[slot];
      float* y = call.y.f32() + row * q_cols + head * dim;
      isa.scale(share, out + slot * padded, dim, y);
      if (!call.lse.empty()) {
        call.lse.f32()[row * call.shape.heads + head] = static_cast<float>(
            double{top[slot]} + std::log(double{total[slot]}));
      }
    }
  }
}

struct BackwardCall {
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

void AddRows(const float* from, int64_t padded, int64_t rows, int64_t cols,
             int64_t stride, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = to + r * stride;
    Active().add(out, from + r * padded, cols, out);
  }
}

// One backward task: one key-value head of one segment; its query heads in
// ascending order, key blocks outside, query blocks inside.
void Backward(const BackwardCall& call, const Segment& s, int64_t kv_head) {
  const Isa& isa = Active();
  const int64_t dim = call.shape.head_dim, padded = Pad(dim);
  const int64_t vectors = padded / kLanes;
  const int64_t group = call.shape.heads / call.shape.kv_heads;
  const int64_t q_cols = call.shape.heads * dim;
  const int64_t kv_cols = call.shape.kv_heads * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const int64_t rows = s.rows, whole = (rows + kBlock - 1) / kBlock * kBlock;
  const int64_t area = whole * padded;

  thread_local Scratch scratch;
  float* q = scratch.Get(6 * area + 2 * whole * dim +
                         2 * kQueryBlock * kBlock + rows);
  float* d = q + area;
  float* k = d + area;
  float* dq = k + area;
  float* dk = dq + area;
  float* dv = dk + area;
  float* turned_k = dv + area;  // per block [dim][kBlock]
  float* turned_v = turned_k + whole * dim;
  float* p = turned_v + whole * dim;
  float* ds = p + kQueryBlock * kBlock;
  float* inner = ds + kQueryBlock * kBlock;

  const int64_t at = s.row * kv_cols + kv_head * dim;
  PadRows(call.k.f32() + at, kv_cols, rows, dim, padded, k);
  for (int64_t j = 0; j < rows; j += kBlock) {
    const int64_t present = std::min(kBlock, rows - j);
    Transpose(call.k.f32() + at + j * kv_cols, kv_cols, present, dim,
              turned_k + j * dim);
    Transpose(call.v.f32() + at + j * kv_cols, kv_cols, present, dim,
              turned_v + j * dim);
  }
  std::fill_n(dk, 2 * area, 0.0f);

  for (int64_t g = 0; g < group; ++g) {
    const int64_t head = kv_head * group + g;
    const int64_t from = s.row * q_cols + head * dim;
    PadRows(call.q.f32() + from, q_cols, rows, dim, padded, q);
    PadRows(call.dy.f32() + from, q_cols, rows, dim, padded, d);
    for (int64_t i = 0; i < rows; ++i) {
      inner[i] = isa.dot(call.dy.f32() + from + i * q_cols,
                         call.y.f32() + from + i * q_cols, dim);
    }
    std::fill_n(dq, area, 0.0f);
    for (int64_t j = 0; j < rows; j += kBlock) {
      const int64_t present = std::min(kBlock, rows - j);
      const int64_t width = Pad(present) / kLanes;
      const int64_t window = call.shape.window;
      const int64_t end =
          window == 0 ? rows : std::min(rows, j + kBlock + window - 1);
      for (int64_t i = call.shape.causal ? j : 0; i < end; i += kQueryBlock) {
        const int64_t count = std::min(kQueryBlock, end - i);
        isa.product(q + i * padded, padded, 1, count, dim, turned_k + j * dim,
                    kBlock, p, kBlock, width, false);
        isa.product(d + i * padded, padded, 1, count, dim, turned_v + j * dim,
                    kBlock, ds, kBlock, width, false);
        for (int64_t r = 0; r < count; ++r) {
          const int64_t row = s.row + i + r;
          isa.softmax_block_backward(
              p + r * kBlock, ds + r * kBlock, width * kLanes,
              call.shape.causal ? std::min(i + r + 1 - j, present) : present,
              scale,
              call.lse.f32()[row * call.shape.heads + head], inner[i + r]);
          const int64_t unseen = Unseen(i + r, j, window);
          std::fill_n(p + r * kBlock, unseen, 0.0f);
          std::fill_n(ds + r * kBlock, unseen, 0.0f);
        }
        isa.product(p, 1, kBlock, present, count, d + i * padded, padded,
                    dv + j * padded, padded, vectors, true);
        isa.product(ds, 1, kBlock, present, count, q + i * padded, padded,
                    dk + j * padded, padded, vectors, true);
        isa.product(ds, kBlock, 1, count, present, k + j * padded, padded,
                    dq + i * padded, padded, vectors, true);
      }
    }
    if (!call.dq.empty()) {
      AddRows(dq, padded, rows, dim, q_cols, call.dq.f32() + from);
    }
  }
  if (!call.dk.empty()) {
    AddRows(dk, padded, rows, dim, kv_cols, call.dk.f32() + at);
  }
  if (!call.dv.empty()) {
    AddRows(dv, padded, rows, dim, kv_cols, call.dv.f32() + at);
  }
}

}  // namespace

void Attention(const Tensor& q, const Tensor& k, const Tensor& v,
               const HeadShape& shape, std::span<const Segment> segments,
               Tensor y, Tensor lse) {
  const ForwardCall call{q, k, v, shape, y, lse};
  std::vector<Task> tasks;
  for (const Segment& s : segments) {
    MOTET_CHECK(shape.causal || s.keys == nullptr);
    for (int64_t g = 0; g < shape.kv_heads; ++g) {
      for (int64_t i = 0; i < s.rows; i += kQueryChunk) {
        tasks.push_back({&s, g, i, std::min(s.rows, i + kQueryChunk)});
      }
    }
  }
  ForPieces(tasks.size(), 1, [&](int64_t b, int64_t e) {
    for (int64_t t = b; t < e; ++t) Forward(call, tasks[t]);
  });
}

void AttentionBackward(const Tensor& q, const Tensor& k, const Tensor& v,
                       const HeadShape& shape,
                       std::span<const Segment> segments, const Tensor& y,
                       const Tensor& lse, const Tensor& dy, Tensor dq,
                       Tensor dk, Tensor dv) {
  const BackwardCall call{q, k, v, shape, y, lse, dy, dq, dk, dv};
  const int64_t heads = shape.kv_heads;
  ForPieces(segments.size() * heads, 1, [&](int64_t b, int64_t e) {
    for (int64_t t = b; t < e; ++t) {
      const Segment& s = segments[t / heads];
      MOTET_CHECK(s.keys == nullptr && s.past == 0);
      Backward(call, s, t % heads);
    }
  });
}

}  // namespace motet::math::cpu
