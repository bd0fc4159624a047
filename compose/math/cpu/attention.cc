// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/attention.cc. Keys are visited in blocks of 64 that
// start at absolute position 0, with an online softmax. What happens to one
// query row - every product's order, every rescaling - is a function of its
// position and the keys before it; tiles, chunks, batch and threads only
// decide which rows are worked on together. A key that a row does not see
// has weight zero and adds zero times its value.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "compose/math/cpu/attention_tiles.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// All query heads of one key-value head, for a chunk of query rows of one
// segment.
struct Task {
  const Segment* segment;
  int64_t kv_head;
  int64_t first, last;  // query rows within the segment
};

struct Call {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const HeadShape& shape;
  Tensor& y;
  Tensor& lse;
};

// The rows that share one sweep over the keys: the chunk's rows of a head or,
// when the chunk is a single row (decoding), that row of every head.
struct Lines {
  int64_t sweeps, count, stride, sweep_stride;
};

// A task at work: what it reads, and its scratch.
class Worker {
 public:
  Worker(const Call& call, const Task& task)
      : call_(call),
        shape_(call.shape),
        s_(*task.segment),
        ops_(OpsFor(call.shape)),
        dim_(shape_.head_dim),
        padded_(Pad(dim_)),
        group_(shape_.heads / shape_.kv_heads),
        q_cols_(shape_.heads * dim_),
        rows_(task.last - task.first),
        start_(s_.past + task.first),
        row_(s_.row + task.first),
        first_head_(task.kv_head * group_) {
    lines_ = rows_ == 1 ? Lines{1, group_, dim_, 0}
                        : Lines{group_, rows_, q_cols_, dim_};
    const bool cached = s_.keys != nullptr;
    const int64_t kv_cols = shape_.kv_heads * dim_;
    const int64_t at = task.kv_head * dim_;
    stride_ = cached ? s_.row_stride : kv_cols;
    if (cached) {
      keys_ = Numbers(s_.keys, s_.dtype) + at;
      values_ = Numbers(s_.values, s_.dtype) + at;
    } else {
      keys_ = call.k.f32() + s_.row * kv_cols + at;
      values_ = call.v.f32() + s_.row * kv_cols + at;
    }
    in_place_ = rows_ == 1 && group_ <= kStraightRows && dim_ == padded_;
  }

  void Run() {
    Layout();
    const float* q = call_.q.f32() + row_ * q_cols_ + first_head_ * dim_;
    for (int64_t g = 0; g < lines_.sweeps; ++g) {
      PackRowsOf(ops_, q + g * lines_.sweep_stride, lines_.stride,
                 lines_.count, dim_, q_ + g * q_sweep_);
    }
    const int64_t all = Seen(rows_ - 1);
    const int64_t window = shape_.window;
    const int64_t from =
        window == 0 ? 0 : std::max<int64_t>(0, start_ - window + 1);
    for (int64_t j = from / kBlock * kBlock; j < all; j += kBlock) {
      const int64_t present = std::min(kBlock, all - j);
      in_place_ ? BlockInPlace(j, present) : Block(j, present);
    }
    Finish();
  }

 private:
  // The keys that line i sees: 0 .. Seen(i) - 1; all lines of a single row
  // see the same.
  int64_t Seen(int64_t i) const {
    if (!shape_.causal) return s_.rows;
    return start_ + (rows_ == 1 ? 0 : i) + 1;
  }

  void Layout() {
    const int64_t slots = lines_.sweeps * lines_.count;
    q_sweep_ = Pad(lines_.count) * ops_.Words(dim_);
    key_words_ = ops_.Words(dim_) * kPanel;
    value_words_ = ops_.Words(kBlock) * kPanel;
    thread_local Scratch scratch;
    q_ = scratch.Get(lines_.sweeps * q_sweep_ + kBlockPanels * key_words_ +
                     padded_ / kPanel * value_words_ + kPanel * kBlock +
                     value_words_ + slots * (padded_ + 2));
    k_ = q_ + lines_.sweeps * q_sweep_;
    v_ = k_ + kBlockPanels * key_words_;
    scores_ = v_ + padded_ / kPanel * value_words_;
    weights_ = scores_ + kPanel * kBlock;
    out_ = weights_ + value_words_;
    top_ = out_ + slots * padded_;
    total_ = top_ + slots;
    std::fill_n(out_, slots * padded_, 0.0f);
    std::fill_n(top_, slots, kNothing);
    std::fill_n(total_, slots, 0.0f);
  }

  void Block(int64_t j, int64_t present) {
    PackRowsOf(ops_, keys_ + j * stride_, stride_, present, dim_, k_);
    PackColumnsOf(ops_, values_ + j * stride_, stride_, present, dim_, v_,
                  value_words_);
    // Lines before `begin` see none of this block, from `end` on no more.
    int64_t begin = 0, end = lines_.count;
    if (rows_ > 1 && shape_.causal) begin = std::max<int64_t>(0, j - start_);
    if (rows_ > 1 && shape_.window > 0) {
      end = std::clamp(j + kBlock + shape_.window - 1 - start_, begin, end);
    }
    for (int64_t g = 0; g < lines_.sweeps; ++g) {
      for (int64_t i = begin / kPanel * kPanel; i < end; i += kPanel) {
        TileOfLines(g, i, j, present, begin, end);
      }
    }
  }

  // Decoding: few lines against keys and values that are read once, where they
  // lie. Only keys that do not fill the direct form's panels are packed.
  void BlockInPlace(int64_t j, int64_t present) {
    constexpr int64_t kAtOnce = kDirectPanels * kPanel;
    int64_t key = 0;
    for (; key + kAtOnce <= present; key += kAtOnce) {
      const Numbers keys = keys_ + (j + key) * stride_;
      ops_.direct(q_, kPanel, lines_.count, keys.data, keys.dtype, stride_,
                  dim_, scores_ + key, kBlock);
    }
    if (key < present) {
      PackRowsOf(ops_, keys_ + (j + key) * stride_, stride_, present - key,
                 dim_, k_);
      MultiplyPanels(ops_, q_, 0, lines_.count, k_, key_words_,
                     Pad(present - key) / kPanel, dim_, false, scores_ + key,
                     kBlock);
    }
    Weigh(0, 0, lines_.count, j, present, 0, lines_.count);
    const Numbers values = values_ + j * stride_;
    ops_.straight(weights_, lines_.count, values.data, values.dtype, stride_,
                  present, dim_, out_, padded_);
  }

  // Sixteen lines against a block of keys.
  void TileOfLines(int64_t g, int64_t first, int64_t j, int64_t present,
                   int64_t begin, int64_t end) {
    const int64_t count = std::min(kPanel, lines_.count - first);
    MultiplyPanels(ops_, q_ + g * q_sweep_ + first * ops_.Words(dim_), 0,
                   count, k_, key_words_, Pad(present) / kPanel, dim_, false,
                   scores_, kBlock);
    Weigh(g, first, count, j, present, begin, end);
    MultiplyPanels(ops_, weights_, 0, count, v_, value_words_,
                   padded_ / kPanel, present, true,
                   out_ + (g * lines_.count + first) * padded_, padded_);
  }

  // Scores become packed weights; totals and what is summed so far follow.
  void Weigh(int64_t g, int64_t first, int64_t count, int64_t j,
             int64_t present, int64_t begin, int64_t end) {
    const int64_t wide = Pad(present);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t i = first + r;
      float* row = scores_ + r * kBlock;
      if (i < begin || i >= end) {
        std::fill_n(row, wide, 0.0f);
        continue;
      }
      const int64_t slot = g * lines_.count + i;
      std::fill_n(row, Unseen(Seen(i) - 1, j, shape_.window), kNothing);
      Active().softmax_block(
          row, wide, std::min(Seen(i) - j, present),
          1.0f / std::sqrt(static_cast<float>(dim_)), top_ + slot,
          total_ + slot, out_ + slot * padded_, padded_ / kLanes);
    }
    ops_.pack(scores_, DType::kF32, kBlock, count, present, weights_);
  }

  void Finish() {
    for (int64_t g = 0; g < lines_.sweeps; ++g) {
      for (int64_t i = 0; i < lines_.count; ++i) {
        const int64_t slot = g * lines_.count + i;
        const int64_t head = first_head_ + (rows_ == 1 ? i : g);
        const int64_t row = row_ + (rows_ == 1 ? 0 : i);
        Active().scale(1.0f / total_[slot], out_ + slot * padded_, dim_,
                       call_.y.f32() + row * q_cols_ + head * dim_);
        if (call_.lse.empty()) continue;
        call_.lse.f32()[row * shape_.heads + head] = static_cast<float>(
            double{top_[slot]} + std::log(double{total_[slot]}));
      }
    }
  }

  const Call& call_;
  const HeadShape& shape_;
  const Segment& s_;
  const PanelOps& ops_;
  const int64_t dim_, padded_, group_, q_cols_, rows_;
  const int64_t start_;  // position of the first row
  const int64_t row_;    // of q and y
  const int64_t first_head_;
  Lines lines_;
  int64_t stride_;
  Numbers keys_, values_;
  bool in_place_;
  int64_t q_sweep_, key_words_, value_words_;
  float *q_, *k_, *v_, *scores_, *weights_, *out_, *top_, *total_;
};

}  // namespace

void Attention(const Tensor& q, const Tensor& k, const Tensor& v,
               const HeadShape& shape, std::span<const Segment> segments,
               Tensor y, Tensor lse) {
  const Call call{q, k, v, shape, y, lse};
  std::vector<Task> tasks;
  for (const Segment& s : segments) {
    MOTET_CHECK(shape.causal || s.keys == nullptr);
    for (int64_t g = 0; g < shape.kv_heads; ++g) {
      for (int64_t i = 0; i < s.rows; i += kBlock) {
        tasks.push_back({&s, g, i, std::min(s.rows, i + kBlock)});
      }
    }
  }
  ForPieces(tasks.size(), 1, [&](int64_t b, int64_t e) {
    for (int64_t t = b; t < e; ++t) Worker(call, tasks[t]).Run();
  });
}

}  // namespace motet::math::cpu
