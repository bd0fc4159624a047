// SPDX-License-Identifier: Apache-2.0
// Added tokens in a text: the leftmost, of those the longest, in a trie.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/strings/string_view.h"
#include "compose/model/tokenizer_json.h"

namespace motet::model {

// Immutable, shared by threads.
class AddedTokens {
 public:
  // Those of `tokens` whose `normalized` is as given; when true, they are
  // looked for in normalized text, and are normalized themselves.
  AddedTokens(const std::vector<AddedToken>& tokens, bool normalized,
              const Normalizer& normalizer);

  bool empty() const { return tokens_.empty(); }
  // Calls between(text) for what lies between tokens and token(id), in the
  // order of the text.
  void Split(absl::string_view text,
             const std::function<void(absl::string_view)>& between,
             const std::function<void(int32_t)>& token) const;

 private:
  struct Node {
    int32_t token = -1;  // index of the token that ends here
    // Sorted by byte.
    std::vector<std::pair<unsigned char, int32_t>> next;
  };
  int32_t Child(int32_t node, unsigned char byte) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> first_;  // children of the root
};

}  // namespace motet::model
