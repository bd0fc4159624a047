// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/tape.h"

#include <algorithm>
#include <cstring>
#include <utility>

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

}  // namespace

// Large gradients are cleared by every thread together.
void Tape::Clear(const math::Tensor& t) const {
  if (mode_ == Mode::kCounts) return;
  constexpr int64_t kPiece = 1 << 18;
  char* data = static_cast<char*>(t.data);
  const int64_t bytes = t.bytes();
#pragma omp parallel for schedule(static) if (bytes > 4 * kPiece)
  for (int64_t begin = 0; begin < bytes; begin += kPiece) {
    std::memset(data + begin, 0,
                static_cast<size_t>(std::min(kPiece, bytes - begin)));
  }
}

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
  Node node;
  node.bytes = parameter.bytes();
  node.watched = true;
  void* gradient = parameter.data;
  if (mode_ == Mode::kRecords) {
    kept_.push_back(std::make_unique<float[]>(
        static_cast<size_t>(parameter.size())));
    gradient = kept_.back().get();
  }
  node.gradient = Flat(gradient, node.bytes);
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
  outputs_.push_back(Address(t));  // of the record to come
}

math::Tensor Tape::Gradient(const math::Tensor& t) {
  return GradientOf(t, false);
}

math::Tensor Tape::FirstGradient(const math::Tensor& t) {
  return GradientOf(t, true);
}

// writes: the caller will, so that numbers nobody added to yet need not be
// cleared, unless it sees only a part of them.
math::Tensor Tape::GradientOf(const math::Tensor& t, bool writes) {
  int64_t offset = 0;
  Node* node = const_cast<Node*>(Find(t, &offset));
  if (node == nullptr) return {};
  bool first = std::exchange(node->stale, false);
  if (node->gradient.empty()) {
    first = true;
    // Sizes differ where rows choose experts: a buffer a little too large
    // will do.
    if (auto it = free_.lower_bound(node->bytes);
        it != free_.end() && it->first <= node->bytes + node->bytes / 4) {
      node->gradient = it->second;
      free_.erase(it);
    } else {
      node->gradient = Flat(arena_.Allocate(node->bytes), node->bytes);
    }
  }
  math::Tensor view = t;
  view.data = static_cast<char*>(node->gradient.data) + offset;
  view.fresh = first && writes && t.bytes() == node->bytes;
  if (first && !view.fresh) Clear(Flat(node->gradient.data, node->bytes));
  return view;
}

bool Tape::HandGradient(const math::Tensor& y, const math::Tensor& t) {
  int64_t from_offset = 0, to_offset = 0;
  Node* from = const_cast<Node*>(Find(y, &from_offset));
  Node* to = const_cast<Node*>(Find(t, &to_offset));
  if (from == nullptr || to == nullptr || from->watched || to->watched ||
      from->gradient.empty() || !to->gradient.empty() ||
      from->bytes != to->bytes || y.bytes() != from->bytes ||
      t.bytes() != to->bytes) {
    return false;
  }
  to->gradient = std::exchange(from->gradient, {});
  return true;
}

void Tape::Record(math::OpId, std::function<void()> backward) {
  if (paused_) return;
  records_.push_back({std::move(backward), std::move(outputs_)});
  outputs_.clear();
}

std::vector<math::Tensor> Tape::Recompute(
    math::Arena& arena, std::function<std::vector<math::Tensor>()> forward) {
  MOTET_CHECK(&arena != &arena_ && outputs_.empty());
  --recompute_;
  const math::Arena::Mark mark = arena.mark();
  paused_ = true;
  const std::vector<math::Tensor> results = forward();
  paused_ = false;
  std::vector<bool> needed;
  for (const math::Tensor& t : results) needed.push_back(Needs(t));
  for (uintptr_t address : std::exchange(outputs_, {})) Drop(address);

  // The results move to where their making began.
  std::vector<std::vector<char>> bytes;
  for (const math::Tensor& t : results) {
    const char* data = static_cast<const char*>(t.data);
    const bool copies = !t.empty() && mode_ == Mode::kRecords;
    bytes.emplace_back(data, data + (copies ? t.bytes() : 0));
  }
  arena.Release(mark);
  std::vector<math::Tensor> kept = results;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i].empty()) continue;
    kept[i].data = arena.Allocate(kept[i].bytes());
    std::copy(bytes[i].begin(), bytes[i].end(),
              static_cast<char*>(kept[i].data));
    if (needed[i]) MarkNeeded(kept[i]);
  }
  if (outputs_.empty()) return kept;  // nothing in it is trained
  Record({}, [this, &arena, forward = std::move(forward), kept] {
    const math::Arena::Mark before = arena.mark();
    const size_t below = records_.size();
    const std::vector<math::Tensor> again = forward();
    for (size_t i = 0; i < kept.size(); ++i) {
      int64_t offset = 0;
      Node* from = const_cast<Node*>(Find(kept[i], &offset));
      Node* to = const_cast<Node*>(Find(again[i], &offset));
      if (from == nullptr || to == nullptr) continue;
      to->gradient = std::exchange(from->gradient, {});
    }
    BackwardTo(below);
    arena.Release(before);
  });
  return kept;
}

void Tape::Drop(uintptr_t address) {
  const auto it = nodes_.find(address);
  if (it == nodes_.end()) return;
  const math::Tensor& gradient = it->second.gradient;
  if (!gradient.empty()) free_.emplace(gradient.bytes(), gradient);
  nodes_.erase(it);
}

void Tape::BackwardTo(size_t records) {
  while (records_.size() > records) {
    // Out of the list first: running it may add records of its own.
    const Entry entry = std::move(records_.back());
    records_.pop_back();
    entry.backward();
    for (uintptr_t address : entry.outputs) Drop(address);
  }
}

void Tape::Forget() {
  records_.clear();
  outputs_.clear();
  free_.clear();
  std::erase_if(nodes_, [](const auto& n) { return !n.second.watched; });
}

void Tape::Reset() {
  Forget();
  for (auto& [address, node] : nodes_) node.stale = true;
}

void Tape::Settle() {
  for (auto& [address, node] : nodes_) {
    if (std::exchange(node.stale, false)) Clear(node.gradient);
  }
}

}  // namespace motet::learn
