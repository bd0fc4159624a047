// SPDX-License-Identifier: Apache-2.0
// Words repeat: what each short word came to is kept, in one thread's memory
// of bounded size. A cache that is full starts anew: frequent words are back
// at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"

namespace motet::model {

class WordCache {
 public:
  static constexpr size_t kLongestWord = 48;

  WordCache() : slots_(kFewSlots) {}

  // Appends the word's ids when they are known. Put() after a miss goes to
  // the place that the miss has found.
  bool Find(absl::string_view word, std::vector<int32_t>& ids) {
    hash_ = static_cast<uint32_t>(absl::Hash<absl::string_view>()(word));
    for (size_t i = hash_ & (slots_.size() - 1);; ++i) {
      i &= slots_.size() - 1;
      const Slot& slot = slots_[i];
      if (slot.bytes == 0) return false;
      if (slot.hash == hash_ && slot.bytes == word.size() &&
          word == absl::string_view(bytes_).substr(slot.byte_at, slot.bytes)) {
        ids.insert(ids.end(), ids_.begin() + slot.id_at,
                   ids_.begin() + slot.id_at + slot.ids);
        return true;
      }
    }
  }
  // The word of the Find() that has just missed; not empty.
  void Put(absl::string_view word, const int32_t* ids, size_t n) {
    if (2 * used_ >= slots_.size()) Grow();
    Place({hash_, static_cast<uint32_t>(bytes_.size()),
           static_cast<uint32_t>(ids_.size()),
           static_cast<uint16_t>(word.size()), static_cast<uint16_t>(n)});
    bytes_.append(word.data(), word.size());
    ids_.insert(ids_.end(), ids, ids + n);
  }

 private:
  static constexpr size_t kFewSlots = 1 << 10, kMostSlots = 1 << 17;
  struct Slot {
    uint32_t hash = 0, byte_at = 0, id_at = 0;
    uint16_t bytes = 0, ids = 0;  // bytes 0 = free
  };
  void Place(const Slot& slot) {
    size_t i = slot.hash & (slots_.size() - 1);
    while (slots_[i].bytes != 0) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = slot;
    ++used_;
  }
  void Grow() {
    const std::vector<Slot> old = std::move(slots_);
    used_ = 0;
    if (old.size() >= kMostSlots) {
      slots_.assign(kMostSlots, Slot());
      bytes_.clear();
      ids_.clear();
      return;
    }
    slots_.assign(2 * old.size(), Slot());
    for (const Slot& slot : old) {
      if (slot.bytes != 0) Place(slot);
    }
  }

  std::vector<Slot> slots_;
  std::string bytes_;
  std::vector<int32_t> ids_;
  size_t used_ = 0;
  uint32_t hash_ = 0;
};

}  // namespace motet::model
