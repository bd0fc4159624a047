// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_wordpiece.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"

namespace motet::model {
namespace {

bool Continues(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

}  // namespace

WordPiece::WordPiece(WordPieceParts parts,
                     const std::vector<std::string>& tokens,
                     const std::vector<bool>& known)
    : parts_(std::move(parts)) {
  begins_.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    if (token.empty() || !known[id]) continue;
    // One with the prefix can begin a word too, if the word has it.
    begins_.emplace(token, static_cast<int32_t>(id));
    longest_token_ = std::max(longest_token_, token.size());
    if (absl::StartsWith(token, parts_.prefix)) {
      continues_.emplace(token.substr(parts_.prefix.size()),
                         static_cast<int32_t>(id));
    }
  }
}

void WordPiece::Encode(absl::string_view word,
                       std::vector<int32_t>& ids) const {
  const int64_t characters =
      std::count_if(word.begin(), word.end(),
                    [](char byte) { return !Continues(byte); });
  const size_t before = ids.size();
  size_t at = 0;
  while (at < word.size() && characters <= parts_.longest_word) {
    const Ids& tokens = at == 0 ? begins_ : continues_;
    size_t end = std::min(word.size(), at + longest_token_);
    while (end < word.size() && end > at && Continues(word[end])) --end;
    auto found = tokens.end();
    while (end > at) {
      found = tokens.find(word.substr(at, end - at));
      if (found != tokens.end()) break;
      do {
        --end;
      } while (end > at && Continues(word[end]));
    }
    if (end == at) break;
    ids.push_back(found->second);
    at = end;
  }
  if (at < word.size()) {
    ids.resize(before);
    ids.push_back(parts_.unknown);
  }
}

void WordPiece::Decode(absl::string_view token, bool first,
                       std::string& text) const {
  std::string piece;
  if (first) {
    piece = std::string(token);
  } else if (absl::StartsWith(token, parts_.decoder_prefix)) {
    piece = std::string(token.substr(parts_.decoder_prefix.size()));
  } else {
    piece = " " + std::string(token);
  }
  if (parts_.cleanup) {
    // One after another, within the token, as the stock library does.
    for (const auto& [from, to] :
         {std::pair(" .", "."), {" ?", "?"}, {" !", "!"}, {" ,", ","},
          {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
          {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"},
          {" 're", "'re"}}) {
      absl::StrReplaceAll({{from, to}}, &piece);
    }
  }
  text += piece;
}

}  // namespace motet::model
