// SPDX-License-Identifier: Apache-2.0
#include "compose/model/cache.h"

#include <algorithm>

namespace motet::model {

SequenceCache::SequenceCache(const ModelConfig& config, int64_t capacity,
                             int64_t experts)
    : kv_width_(config.kv_heads * config.head_dim),
      width_(config.width),
      layers_(config.layers),
      experts_(experts),
      capacity_(capacity),
      keys_(std::make_unique_for_overwrite<float[]>(layers_ * capacity *
                                                    kv_width_)),
      values_(std::make_unique_for_overwrite<float[]>(layers_ * capacity *
                                                      kv_width_)),
      scores_(layers_ * experts),
      hidden_(layers_ * width_),
      started_(std::make_unique<bool[]>(layers_)) {
  MOTET_CHECK(capacity > 0 && experts > 0);
}

void SequenceCache::Clear() {
  length_ = 0;
  std::fill_n(started_.get(), layers_, false);
}

int64_t SequenceCache::Bytes(const ModelConfig& config, int64_t capacity) {
  const int64_t keys_and_values =
      2 * capacity * config.kv_heads * config.head_dim;
  const int64_t smoothing = std::max<int64_t>(config.experts, 1) + config.width;
  return config.layers *
         ((keys_and_values + smoothing) * static_cast<int64_t>(sizeof(float)) +
          static_cast<int64_t>(sizeof(bool)));
}

float* SequenceCache::keys(int64_t layer) {
  return keys_.get() + layer * capacity_ * kv_width_;
}

float* SequenceCache::values(int64_t layer) {
  return values_.get() + layer * capacity_ * kv_width_;
}

math::AnchoredState SequenceCache::anchored(int64_t layer) {
  return {scores_.data() + layer * experts_, hidden_.data() + layer * width_,
          started_.get() + layer};
}

}  // namespace motet::model
