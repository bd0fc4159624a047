// SPDX-License-Identifier: Apache-2.0
// Byte-pair merging of one word: the pair of lowest rank is merged first,
// the leftmost of equals, until none is left. A heap of candidates over a
// linked list: O(n log n) for a word of n bytes, however long.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "compose/model/tokenizer_json.h"

namespace motet::model {

// Immutable, shared by threads.
class Bpe {
 public:
  // byte_ids: 256; a byte without an id becomes `unknown`, or nothing when
  // that is -1 too. Of a pair given twice the later counts.
  Bpe(const std::vector<BpeMerge>& merges, std::vector<int32_t> byte_ids,
      int32_t unknown);

  struct Symbol {
    int32_t id, previous, next;  // id -1 = merged away
  };
  struct Candidate {
    int32_t rank, at;  // at: index of the left symbol
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };
  // Appends the word's ids. Words of 2^31 bytes and more are not for this.
  void Encode(absl::string_view word, Scratch& scratch,
              std::vector<int32_t>& ids) const;

 private:
  struct Target {
    int32_t rank, result;
  };
  const Target* Find(int32_t left, int32_t right) const;

  absl::flat_hash_map<uint64_t, Target> merges_;
  std::vector<int32_t> byte_ids_;
  int32_t unknown_;
};

}  // namespace motet::model
