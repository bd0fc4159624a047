// SPDX-License-Identifier: Apache-2.0
// What one sequence carries from token to token: keys and values of every
// layer and the anchored router's smoothing state. It is a function of the
// expert set and the tokens alone (docs/exclusion.md), so a cache belongs to
// one expert set and is never shared across sets.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "compose/math/operators.h"
#include "compose/model/config.h"

namespace motet::model {

class SequenceCache {
 public:
  // Room for `capacity` tokens. experts: E with the base (1 when dense).
  // set: those that the sequence uses; attention experts outside it have no
  // keys and values here. Memory of these is touched only as tokens come.
  SequenceCache(const ModelConfig& config, int64_t capacity, int64_t experts,
                math::ExpertMask set = ~math::ExpertMask{0});
  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  // As new: length 0, smoothing not started.
  void Clear();
  // Of a full cache; with bf16 products half of it is never touched.
  static int64_t Bytes(const ModelConfig& config, int64_t capacity,
                       math::ExpertMask set = ~math::ExpertMask{0});

  // For the decoder. Rows [length, length + n) of keys and values [n,G*D] are
  // written, of every attention, then Advance(n). `dtype` is that of all rows
  // from the first to Clear(): bf16 where the products round to it anyway (the
  // same bits, half the memory to read), else f32. attention: the expert where
  // each has keys and values of its own, in the set; else 0.
  void Write(int64_t layer, int64_t attention, math::DType dtype, int64_t rows,
             const float* keys, const float* values);
  // [capacity, G*D]
  const void* keys(int64_t layer, int64_t attention) const;
  const void* values(int64_t layer, int64_t attention) const;
  math::DType dtype() const { return dtype_; }
  math::AnchoredState anchored(int64_t layer);
  void Advance(int64_t tokens) { length_ += tokens; }

 private:
  int64_t Place(int64_t layer, int64_t attention) const;

  int64_t kv_width_, width_, layers_, experts_, capacity_, length_ = 0;
  math::ExpertMask attentions_;  // that have keys and values
  math::DType dtype_ = math::DType::kF32;
  // [L, attentions, capacity, G*D]: room for f32
  std::unique_ptr<float[]> keys_, values_;
  std::vector<float> scores_, hidden_;      // [L, E], [L, C]
  std::unique_ptr<bool[]> started_;         // [L]
};

}  // namespace motet::model
