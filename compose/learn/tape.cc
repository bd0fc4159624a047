// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/tape.h"

#include <algorithm>
#include <cstring>

namespace motet::learn {
namespace {

uintptr_t Address(const math::Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data);
}

math::Tensor Flat(void* data, int64_t bytes) {
  math::Tensor t;
  t.data = data;
  t.shape = math::Shape{bytes / math::ByteSize(math::DType::kF32)};
  return t;
}

// Gradients add up from zero; in all that is some hundred megabytes a step,
// so every thread clears its part.
void Clear(const math::Tensor& t) {
  constexpr int64_t kPiece = 1 << 18;
  char* data = static_cast<char*>(t.data);
  const int64_t bytes = t.bytes();
#pragma omp parallel for schedule(static) if (bytes > 4 * kPiece)
  for (int64_t begin = 0; begin < bytes; begin += kPiece) {
    std::memset(data + begin, 0,
                static_cast<size_t>(std::min(kPiece, bytes - begin)));
  }
}

}  // namespace

const Tape::Node* Tape::Find(const math::Tensor& t, int64_t* offset) const {
  if (t.empty()) return nullptr;
  auto it = nodes_.upper_bound(Address(t));
  if (it == nodes_.begin()) return nullptr;
  --it;
  *offset = static_cast<int64_t>(Address(t) - it->first);
  if (*offset >= it->second.bytes) return nullptr;
  MOTET_CHECK(*offset + t.bytes() <= it->second.bytes);
  return &it->second;
}

void Tape::Watch(const math::Tensor& parameter) {
  MOTET_CHECK(parameter.dtype == math::DType::kF32 && !parameter.empty());
  int64_t offset = 0;
  if (Find(parameter, &offset) != nullptr) return;
  const int64_t n = parameter.size();
  kept_.push_back(std::make_unique<float[]>(static_cast<size_t>(n)));
  Node node;
  node.bytes = parameter.bytes();
  node.watched = true;
  node.gradient = Flat(kept_.back().get(), node.bytes);
  nodes_.emplace(Address(parameter), node);
}

bool Tape::Needs(const math::Tensor& t) const {
  int64_t offset = 0;
  return Find(t, &offset) != nullptr;
}

void Tape::MarkNeeded(const math::Tensor& t) {
  MOTET_CHECK(t.dtype == math::DType::kF32);
  if (t.empty() || t.bytes() == 0 || Needs(t)) return;
  Node node;
  node.bytes = t.bytes();
  nodes_.emplace(Address(t), node);
  // The record that makes t is the last one or the one to come; after the
  // last one has run backward nobody asks for t's gradient any more.
  if (!records_.empty()) records_.back().outputs.push_back(Address(t));
}

math::Tensor Tape::Gradient(const math::Tensor& t) {
  int64_t offset = 0;
  Node* node = const_cast<Node*>(Find(t, &offset));
  if (node == nullptr) return {};
  if (node->gradient.empty()) {
    if (auto it = free_.find(node->bytes); it != free_.end()) {
      node->gradient = it->second;
      free_.erase(it);
    } else {
      node->gradient = Flat(arena_.Allocate(node->bytes), node->bytes);
    }
    Clear(node->gradient);
  }
  math::Tensor view = t;
  view.data = static_cast<char*>(node->gradient.data) + offset;
  return view;
}

void Tape::Record(math::OpId op, std::function<void()> backward) {
  records_.push_back({std::move(backward), {}});
}

void Tape::Backward() {
  while (!records_.empty()) {
    records_.back().backward();
    for (uintptr_t address : records_.back().outputs) {
      auto it = nodes_.find(address);
      if (it == nodes_.end()) continue;
      if (!it->second.gradient.empty()) {
        free_.emplace(it->second.bytes, it->second.gradient);
      }
      nodes_.erase(it);
    }
    records_.pop_back();
  }
}

void Tape::Reset() {
  records_.clear();
  free_.clear();
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    if (!it->second.watched) {
      it = nodes_.erase(it);
      continue;
    }
    Clear(it->second.gradient);
    ++it;
  }
}

}  // namespace motet::learn
