// SPDX-License-Identifier: Apache-2.0
// Text -> added tokens and what lies between -> normalized text -> words ->
// merged bytes or word pieces -> ids.
#include "compose/model/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "compose/model/pretokenizer.h"
#include "compose/model/tokenizer_added.h"
#include "compose/model/tokenizer_bpe.h"
#include "compose/model/tokenizer_cache.h"
#include "compose/model/tokenizer_json.h"
#include "compose/model/tokenizer_wordpiece.h"
#include "compose/model/unicode.h"
#include "proto/error.h"

namespace motet::model {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// What one call to Encode works with.
struct Work {
  std::vector<int32_t> ids;
  std::string valid, normalized;
  Pretokenizer::Scratch words;
  Bpe::Scratch merging;
  WordCache cache;
};

// Kept between calls, one a thread at work: no word waits for a lock.
class WorkPool {
 public:
  std::unique_ptr<Work> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<Work>();
    std::unique_ptr<Work> work = std::move(idle_.back());
    idle_.pop_back();
    return work;
  }
  void Give(std::unique_ptr<Work> work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(work));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Work>> idle_;
};

// Every invalid byte becomes U+FFFD.
void Repair(absl::string_view text, std::string& valid) {
  valid.clear();
  while (!text.empty()) {
    const size_t n = ValidUtf8Prefix(text);
    valid.append(text.data(), n);
    text.remove_prefix(n);
    if (text.empty()) break;
    valid += kReplacement;
    text.remove_prefix(1);
  }
}

class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts)
      : tokens_(std::move(parts.tokens)),
        special_(tokens_.size(), false),
        in_model_(tokens_.size(), true),
        ignore_merges_(parts.ignore_merges),
        normalizer_(std::move(parts.normalizer)),
        pretokenizer_(std::move(parts.pretokenizer)),
        around_(std::move(parts.around)),
        raw_(parts.added, /*normalized=*/false, normalizer_),
        normalized_(parts.added, /*normalized=*/true, normalizer_) {
    for (const AddedToken& token : parts.added) {
      special_[token.id] = token.special;
      in_model_[token.id] = token.in_model;
      added_.emplace_back(tokens_[token.id], token.id);
    }
    if (parts.is_wordpiece) {
      wordpiece_ = std::make_unique<WordPiece>(std::move(parts.wordpiece),
                                               tokens_, in_model_);
    } else {
      bpe_ = std::make_unique<Bpe>(parts.merges, std::move(parts.byte_ids),
                                   parts.unknown);
    }
    // As the stock library decodes them.
    for (const AddedToken& token : parts.added) {
      if (token.normalized) normalizer_.Normalize(tokens_[token.id]);
    }
  }

  std::vector<int32_t> Encode(absl::string_view text,
                              const EncodeOptions& options) const override {
    std::unique_ptr<Work> work = pool_.Take();
    work->ids.clear();
    if (wordpiece_ != nullptr && ValidUtf8Prefix(text) < text.size()) {
      Repair(text, work->valid);
      text = work->valid;
    }
    raw_.Split(
        text, [&](absl::string_view between) { EncodeRaw(between, *work); },
        [&](int32_t id) { work->ids.push_back(id); });
    std::vector<int32_t> ids = Finish(work->ids, options);
    pool_.Give(std::move(work));
    return ids;
  }

  std::string Decode(const std::vector<int32_t>& ids,
                     bool special) const override {
    std::string text;
    bool first = true;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocabulary() || (special_[id] && !special)) continue;
      if (wordpiece_ == nullptr) {
        text += tokens_[id];
      } else if (!tokens_[id].empty()) {
        wordpiece_->Decode(tokens_[id], first, text);
        first = false;
      }
    }
    return text;
  }

  std::string TokenBytes(int32_t id) const override {
    return id < 0 || id >= vocabulary() ? "" : tokens_[id];
  }
  int32_t IdOf(absl::string_view token) const override {
    std::call_once(ids_once_, [this] { FillIds(); });
    const auto it = ids_.find(token);
    return it == ids_.end() ? -1 : it->second;
  }
  int64_t vocabulary() const override {
    return static_cast<int64_t>(tokens_.size());
  }

 private:
  // On first use: most programs never ask, and it takes as long as the rest.
  void FillIds() const {
    std::vector<bool> added(tokens_.size(), false);
    for (const auto& [name, id] : added_) added[id] = true;
    ids_.reserve(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].empty() || added[i]) continue;
      ids_.emplace(tokens_[i], static_cast<int32_t>(i));
    }
    // They win over words of the same bytes, and go by the name that they had
    // before they were normalized.
    for (const auto& [name, id] : added_) ids_[name] = id;
  }

  std::vector<int32_t> Finish(const std::vector<int32_t>& text,
                              const EncodeOptions& options) const {
    static const TokensAround nothing;
    const TokensAround& around =
        options.add_special_tokens ? around_ : nothing;
    size_t kept = text.size();
    if (options.max_tokens > 0) {
      const int64_t left = options.max_tokens -
                           static_cast<int64_t>(around.before.size()) -
                           static_cast<int64_t>(around.after.size());
      kept = std::min(kept, static_cast<size_t>(std::max<int64_t>(left, 0)));
    }
    std::vector<int32_t> ids;
    ids.reserve(around.before.size() + kept + around.after.size());
    ids.insert(ids.end(), around.before.begin(), around.before.end());
    ids.insert(ids.end(), text.begin(), text.begin() + kept);
    ids.insert(ids.end(), around.after.begin(), around.after.end());
    return ids;
  }

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
    if (!normalizer_.empty()) {
      work.normalized.assign(text.data(), text.size());
      normalizer_.Normalize(work.normalized);
      text = work.normalized;
    }
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
    if (cached && work.cache.Find(word, work.ids)) return;
    const size_t before = work.ids.size();
    const int32_t whole = ignore_merges_ ? IdOf(word) : -1;
    if (whole >= 0 && in_model_[whole]) {
      work.ids.push_back(whole);
    } else if (wordpiece_ != nullptr) {
      wordpiece_->Encode(word, work.ids);
    } else {
      bpe_->Encode(word, work.merging, work.ids);
    }
    if (cached) {
      work.cache.Put(word, work.ids.data() + before,
                     work.ids.size() - before);
    }
  }

  std::vector<std::string> tokens_;  // bytes by id
  std::vector<bool> special_, in_model_;
  std::vector<std::pair<std::string, int32_t>> added_;
  mutable std::once_flag ids_once_;
  mutable absl::flat_hash_map<absl::string_view, int32_t> ids_;  // FillIds()
  bool ignore_merges_;
  Normalizer normalizer_;
  std::unique_ptr<Pretokenizer> pretokenizer_;
  TokensAround around_;
  AddedTokens raw_, normalized_;
  std::unique_ptr<Bpe> bpe_;              // one of the two
  std::unique_ptr<WordPiece> wordpiece_;
  mutable WorkPool pool_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(
    const std::string& json) {
  MOTET_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(json));
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace motet::model
