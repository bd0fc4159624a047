// SPDX-License-Identifier: Apache-2.0
// Text -> added tokens and what lies between -> words -> merged bytes -> ids.
// Words repeat, so what a short word came to is kept in a bounded cache.
#include "compose/model/tokenizer.h"

#include <array>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "compose/model/pretokenizer.h"
#include "compose/model/tokenizer_added.h"
#include "compose/model/tokenizer_bpe.h"
#include "compose/model/tokenizer_json.h"
#include "compose/model/unicode.h"
#include "proto/error.h"

namespace motet::model {
namespace {

// Short words and their ids, for all threads. A shard that is full starts
// anew: frequent words are back at once.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 48;

  bool Find(absl::string_view word, std::vector<int32_t>& ids) {
    Shard& shard = ShardOf(word);
    const std::lock_guard<std::mutex> lock(shard.mutex);
    const auto it = shard.words.find(word);
    if (it == shard.words.end()) return false;
    ids.insert(ids.end(), it->second.begin(), it->second.end());
    return true;
  }
  void Put(absl::string_view word, const int32_t* ids, size_t n) {
    Shard& shard = ShardOf(word);
    const std::lock_guard<std::mutex> lock(shard.mutex);
    if (shard.words.size() >= kWordsInShard) shard.words.clear();
    shard.words.emplace(word, std::vector<int32_t>(ids, ids + n));
  }

 private:
  static constexpr size_t kShards = 16;
  static constexpr size_t kWordsInShard = 4096;
  struct Shard {
    std::mutex mutex;
    absl::flat_hash_map<std::string, std::vector<int32_t>> words;
  };
  Shard& ShardOf(absl::string_view word) {
    const auto byte = [&](size_t i) {
      return static_cast<unsigned char>(word[i]);
    };
    const size_t mix =
        byte(0) * 3 + byte(word.size() / 2) * 5 + byte(word.size() - 1) * 7;
    return shards_[(mix + word.size()) % kShards];
  }
  std::array<Shard, kShards> shards_;
};

class ByteLevelTokenizer : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(TokenizerParts parts)
      : tokens_(std::move(parts.tokens)),
        special_(tokens_.size(), false),
        ignore_merges_(parts.ignore_merges),
        pretokenizer_(std::move(parts.pretokenizer)),
        raw_(parts.added, /*normalized=*/false),
        normalized_(parts.added, /*normalized=*/true),
        bpe_(parts.merges, std::move(parts.byte_ids), parts.unknown) {
    ids_.reserve(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!tokens_[i].empty()) {
        ids_.emplace(tokens_[i], static_cast<int32_t>(i));
      }
    }
  }
  // Added tokens win over words of the same bytes; called once.
  void Mark(const std::vector<AddedToken>& added) {
    for (const AddedToken& token : added) {
      ids_[tokens_[token.id]] = token.id;
      special_[token.id] = token.special;
    }
  }

  std::vector<int32_t> Encode(absl::string_view text) const override {
    Work work;
    raw_.Split(
        text, [&](absl::string_view between) { EncodeRaw(between, work); },
        [&](int32_t id) { work.ids.push_back(id); });
    return std::move(work.ids);
  }

  std::string Decode(const std::vector<int32_t>& ids,
                     bool special) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocabulary() || (special_[id] && !special)) continue;
      text += tokens_[id];
    }
    return text;
  }

  std::string TokenBytes(int32_t id) const override {
    return id < 0 || id >= vocabulary() ? "" : tokens_[id];
  }
  int32_t IdOf(absl::string_view token) const override {
    const auto it = ids_.find(token);
    return it == ids_.end() ? -1 : it->second;
  }
  int64_t vocabulary() const override {
    return static_cast<int64_t>(tokens_.size());
  }

 private:
  struct Work {
    std::vector<int32_t> ids;
    Pretokenizer::Scratch words;
    Bpe::Scratch merging;
  };

  // Text between the tokens that are matched raw. What is no UTF-8 is one
  // word of bytes.
  void EncodeRaw(absl::string_view text, Work& work) const {
    while (!text.empty()) {
      const size_t valid = ValidUtf8Prefix(text);
      if (valid > 0) EncodeValid(text.substr(0, valid), work);
      text.remove_prefix(valid);
      size_t bad = 0;
      while (bad < text.size() && ValidUtf8Prefix(text.substr(bad, 4)) == 0) {
        ++bad;
      }
      if (bad > 0) EncodeWord(text.substr(0, bad), work);
      text.remove_prefix(bad);
    }
  }

  void EncodeValid(absl::string_view text, Work& work) const {
    if (normalized_.empty()) {
      EncodeWords(text, work);
      return;
    }
    normalized_.Split(
        text, [&](absl::string_view between) { EncodeWords(between, work); },
        [&](int32_t id) { work.ids.push_back(id); });
  }

  void EncodeWords(absl::string_view text, Work& work) const {
    pretokenizer_->Split(text, work.words);
    for (const absl::string_view word : work.words.words) {
      EncodeWord(word, work);
    }
  }

  void EncodeWord(absl::string_view word, Work& work) const {
    const bool cached = word.size() <= WordCache::kLongestWord;
    if (cached && cache_.Find(word, work.ids)) return;
    const size_t before = work.ids.size();
    const int32_t whole = ignore_merges_ ? IdOf(word) : -1;
    if (whole >= 0) {
      work.ids.push_back(whole);
    } else {
      bpe_.Encode(word, work.merging, work.ids);
    }
    if (cached) {
      cache_.Put(word, work.ids.data() + before, work.ids.size() - before);
    }
  }

  std::vector<std::string> tokens_;  // bytes by id
  std::vector<bool> special_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  bool ignore_merges_;
  std::unique_ptr<Pretokenizer> pretokenizer_;
  AddedTokens raw_, normalized_;
  Bpe bpe_;
  mutable WordCache cache_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(
    const std::string& json) {
  MOTET_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(json));
  const std::vector<AddedToken> added = parts.added;
  auto tokenizer = std::make_unique<ByteLevelTokenizer>(std::move(parts));
  tokenizer->Mark(added);
  return tokenizer;
}

}  // namespace motet::model
