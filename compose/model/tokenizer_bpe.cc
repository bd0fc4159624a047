// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_bpe.h"

#include <algorithm>
#include <utility>

namespace motet::model {
namespace {

uint64_t Pair(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 |
         static_cast<uint32_t>(right);
}

// Makes a min-heap by rank, then by place.
bool Later(const Bpe::Candidate& a, const Bpe::Candidate& b) {
  return std::pair(a.rank, a.at) > std::pair(b.rank, b.at);
}

}  // namespace

Bpe::Bpe(const std::vector<BpeMerge>& merges, std::vector<int32_t> byte_ids,
         int32_t unknown)
    : byte_ids_(std::move(byte_ids)), unknown_(unknown) {
  merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    merges_[Pair(merges[i].left, merges[i].right)] = {static_cast<int32_t>(i),
                                                      merges[i].result};
  }
}

const Bpe::Target* Bpe::Find(int32_t left, int32_t right) const {
  const auto it = merges_.find(Pair(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void Bpe::Encode(absl::string_view word, Scratch& scratch,
                 std::vector<int32_t>& ids) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  for (const unsigned char byte : word) {
    const int32_t id = byte_ids_[byte] >= 0 ? byte_ids_[byte] : unknown_;
    if (id < 0) continue;
    const int32_t at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Target* t = Find(symbols[i].id, symbols[i + 1].id)) {
      heap.push_back({t->rank, static_cast<int32_t>(i)});
    }
  }
  std::make_heap(heap.begin(), heap.end(), Later);
  const auto push = [&](int32_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const Target* t = Find(symbols[at].id, symbols[symbols[at].next].id);
    if (t == nullptr) return;
    heap.push_back({t->rank, at});
    std::push_heap(heap.begin(), heap.end(), Later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const Candidate candidate = heap.back();
    heap.pop_back();
    Symbol& left = symbols[candidate.at];
    if (left.id < 0 || left.next < 0) continue;
    // What stood there may have been merged since: then the pair is another
    // one, with a rank of its own.
    Symbol& right = symbols[left.next];
    const Target* t = Find(left.id, right.id);
    if (t == nullptr || t->rank != candidate.rank) continue;
    left.id = t->result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = candidate.at;
    push(left.previous);
    push(candidate.at);
  }
  for (int32_t at = 0; at >= 0; at = symbols[at].next) {
    ids.push_back(symbols[at].id);
  }
}

}  // namespace motet::model
