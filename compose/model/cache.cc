// SPDX-License-Identifier: Apache-2.0
#include "compose/model/cache.h"

#include <algorithm>
#include <cstring>

namespace motet::model {

namespace {

// Which have keys and values of their own; {0} where there is one attention.
math::ExpertMask Attentions(const ModelConfig& config, math::ExpertMask set) {
  return config.attention_experts == AttentionExperts::kOwnKv
             ? set & math::FirstExperts(config.experts)
             : math::ExpertMask{1};
}

// Numbers that are packed as tightly as their dtype allows.
template <typename Byte>
Byte* At(Byte* data, int64_t numbers, math::DType dtype) {
  return data + numbers * math::ByteSize(dtype);
}

}  // namespace

SequenceCache::SequenceCache(const ModelConfig& config, int64_t capacity,
                             int64_t experts, math::ExpertMask set)
    : kv_width_(config.kv_heads * config.head_dim),
      width_(config.width),
      layers_(config.layers),
      experts_(experts),
      capacity_(capacity),
      attentions_(Attentions(config, set)),
      keys_(std::make_unique_for_overwrite<float[]>(
          layers_ * math::CountExperts(attentions_) * capacity * kv_width_)),
      values_(std::make_unique_for_overwrite<float[]>(
          layers_ * math::CountExperts(attentions_) * capacity * kv_width_)),
      scores_(layers_ * experts),
      hidden_(layers_ * width_),
      started_(std::make_unique<bool[]>(layers_)) {
  MOTET_CHECK(capacity > 0 && experts > 0 && attentions_ != 0);
}

void SequenceCache::Clear() {
  length_ = 0;
  std::fill_n(started_.get(), layers_, false);
}

int64_t SequenceCache::Bytes(const ModelConfig& config, int64_t capacity,
                             math::ExpertMask set) {
  const int64_t keys_and_values = 2 *
                                  math::CountExperts(Attentions(config, set)) *
                                  capacity * config.kv_heads * config.head_dim;
  const int64_t smoothing = std::max<int64_t>(config.experts, 1) + config.width;
  return config.layers *
         ((keys_and_values + smoothing) * static_cast<int64_t>(sizeof(float)) +
          static_cast<int64_t>(sizeof(bool)));
}

// Numbers before those of one attention in one layer.
int64_t SequenceCache::Place(int64_t layer, int64_t attention) const {
  MOTET_CHECK((attentions_ >> attention & 1) != 0);
  const int before =
      math::CountExperts(attentions_ & math::FirstExperts(attention));
  return (layer * math::CountExperts(attentions_) + before) * capacity_ *
         kv_width_;
}

void SequenceCache::Write(int64_t layer, int64_t attention, math::DType dtype,
                          int64_t rows, const float* keys,
                          const float* values) {
  MOTET_CHECK(length_ == 0 || dtype == dtype_);
  MOTET_CHECK(length_ + rows <= capacity_);
  dtype_ = dtype;
  const int64_t at = Place(layer, attention) + length_ * kv_width_;
  const int64_t numbers = rows * kv_width_;
  const auto write = [&](const float* from, float* all) {
    char* to = At(reinterpret_cast<char*>(all), at, dtype);
    if (dtype == math::DType::kBF16) {
      math::NarrowBf16(from, numbers, reinterpret_cast<uint16_t*>(to));
    } else {
      std::memcpy(to, from, numbers * sizeof(float));
    }
  };
  write(keys, keys_.get());
  write(values, values_.get());
}

const void* SequenceCache::keys(int64_t layer, int64_t attention) const {
  return At(reinterpret_cast<const char*>(keys_.get()), Place(layer, attention),
            dtype_);
}

const void* SequenceCache::values(int64_t layer, int64_t attention) const {
  return At(reinterpret_cast<const char*>(values_.get()),
            Place(layer, attention), dtype_);
}

math::AnchoredState SequenceCache::anchored(int64_t layer) {
  return {scores_.data() + layer * experts_, hidden_.data() + layer * width_,
          started_.get() + layer};
}

}  // namespace motet::model
