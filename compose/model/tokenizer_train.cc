// SPDX-License-Identifier: Apache-2.0
// Training byte-level BPE: words are counted once, then the most frequent
// pair is merged in the words that have it, again and again. Counts of pairs
// move with each merge; a heap finds the next pair, a list a pair says which
// words to touch. Ties go to the lower pair of ids, so the same documents
// always give the same bytes.
#include <algorithm>
#include <cstdint>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "compose/model/pretokenizer.h"
#include "compose/model/tokenizer.h"
#include "compose/model/unicode.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::model {
namespace {

using proto::Invalid;
using Pair = std::pair<int32_t, int32_t>;

constexpr int64_t kMinCount = 2;  // a pair seen once teaches nothing
constexpr int64_t kMaxVocabulary = 1 << 22;
constexpr double kCountingShare = 0.3;  // of the progress shown

struct Word {
  std::vector<int32_t> ids;
  int64_t count = 0;
};

struct Candidate {
  int64_t count;
  Pair pair;
  // The largest count first, of equals the lowest pair.
  bool operator<(const Candidate& other) const {
    return std::tie(count, other.pair) < std::tie(other.count, pair);
  }
};

class Trainer {
 public:
  explicit Trainer(const TokenizerTrainOptions& options) : options_(options) {}

  absl::StatusOr<std::string> Run(const std::vector<std::string>& documents) {
    MOTET_RETURN_IF_ERROR(CheckOptions());
    MakeAlphabet();
    MOTET_RETURN_IF_ERROR(CountWords(documents));
    CountPairs();
    MOTET_RETURN_IF_ERROR(Merge());
    return Json();
  }

 private:
  absl::Status CheckOptions() const {
    const int64_t least = 256 + static_cast<int64_t>(options_.specials.size());
    if (options_.vocabulary < least || options_.vocabulary > kMaxVocabulary) {
      return Invalid("tokenizer training",
                     absl::StrCat("a vocabulary of ", options_.vocabulary),
                     absl::StrCat(least, " (specials and bytes) to ",
                                  kMaxVocabulary));
    }
    absl::flat_hash_set<std::string> seen;
    for (const std::string& special : options_.specials) {
      size_t characters = 0;
      const bool valid = ValidUtf8Prefix(special) == special.size();
      for (size_t at = 0; valid && at < special.size(); ++characters) {
        NextCodePoint(special, at);
      }
      if (characters < 2 || !seen.insert(special).second) {
        return Invalid("tokenizer training",
                       absl::StrCat("the special token \"", special, "\""),
                       "two or more characters of UTF-8, each token once");
      }
    }
    return absl::OkStatus();
  }

  bool Stopped(double fraction) const {
    return options_.progress && !options_.progress(fraction);
  }
  static absl::Status Cancelled() {
    return absl::CancelledError("[tokenizer training] stopped on request");
  }

  // Specials, then the bytes in the order of their spelling, as the stock
  // trainer numbers them.
  void MakeAlphabet() {
    tokens_ = options_.specials;
    specials_.insert(tokens_.begin(), tokens_.end());
    std::vector<std::pair<char32_t, int>> bytes;
    for (int b = 0; b < 256; ++b) bytes.push_back({ByteAlphabet()[b], b});
    std::sort(bytes.begin(), bytes.end());
    for (const auto& [point, byte] : bytes) {
      byte_ids_[byte] = static_cast<int32_t>(tokens_.size());
      AddToken(std::string(1, static_cast<char>(byte)));
    }
  }
  void AddToken(std::string bytes) {
    ids_.emplace(bytes, static_cast<int32_t>(tokens_.size()));
    tokens_.push_back(std::move(bytes));
  }

  absl::Status CountWords(const std::vector<std::string>& documents) {
    absl::flat_hash_map<std::string, int64_t> counts;
    const std::unique_ptr<Pretokenizer> split = Pretokenizer::ByteLevel();
    Pretokenizer::Scratch scratch;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (Stopped(kCountingShare * i / documents.size())) return Cancelled();
      absl::string_view text = documents[i];
      while (!text.empty()) {
        const size_t valid = ValidUtf8Prefix(text);
        split->Split(text.substr(0, valid), scratch);
        for (absl::string_view word : scratch.words) ++counts[word];
        // Bytes that are no UTF-8 stand alone and need no merges.
        text.remove_prefix(std::min(text.size(), valid + 1));
      }
    }
    std::vector<std::pair<std::string, int64_t>> sorted(counts.begin(),
                                                        counts.end());
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [bytes, count] : sorted) {
      Word word;
      word.count = count;
      for (const unsigned char b : bytes) word.ids.push_back(byte_ids_[b]);
      words_.push_back(std::move(word));
    }
    return absl::OkStatus();
  }

  void CountPairs() {
    for (size_t w = 0; w < words_.size(); ++w) {
      AddPairs(static_cast<int32_t>(w), +1);
    }
    for (const auto& [pair, count] : pair_counts_) heap_.push({count, pair});
  }

  // Counts the pairs of a word in (+1) or out (-1), and notes where those
  // with `fresh` in them are (-1: all are new).
  void AddPairs(int32_t w, int sign, int32_t fresh = -1) {
    const Word& word = words_[w];
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) {
      const Pair pair{word.ids[i], word.ids[i + 1]};
      pair_counts_[pair] += sign * word.count;
      if (sign > 0 &&
          (fresh < 0 || pair.first == fresh || pair.second == fresh)) {
        std::vector<int32_t>& where = places_[pair];
        if (where.empty() || where.back() != w) where.push_back(w);
      }
    }
  }

  absl::Status Merge() {
    const double all = static_cast<double>(options_.vocabulary);
    const double start = static_cast<double>(tokens_.size());
    while (static_cast<int64_t>(tokens_.size()) < options_.vocabulary &&
           !heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const auto count = pair_counts_.find(top.pair);
      if (count == pair_counts_.end() || count->second < kMinCount) continue;
      if (count->second != top.count) {
        // An entry with the right count was pushed when it rose; after a
        // fall this one takes its place.
        if (count->second < top.count) heap_.push({count->second, top.pair});
        continue;
      }
      // Plain text must never come to a special token.
      const std::string bytes =
          tokens_[top.pair.first] + tokens_[top.pair.second];
      if (specials_.contains(SpellBytes(bytes))) continue;
      Apply(top.pair, bytes);
      if (merges_.size() % 64 == 0 &&
          Stopped(kCountingShare + (1 - kCountingShare) *
                                       (tokens_.size() - start) /
                                       std::max(1.0, all - start))) {
        return Cancelled();
      }
    }
    return absl::OkStatus();
  }

  void Apply(Pair pair, const std::string& bytes) {
    const auto known = ids_.find(bytes);
    // Two pairs may spell the same token.
    const int32_t id = known != ids_.end()
                           ? known->second
                           : static_cast<int32_t>(tokens_.size());
    if (known == ids_.end()) AddToken(bytes);
    if (merged_.insert(pair).second) merges_.push_back(pair);

    const std::vector<int32_t> where = std::move(places_[pair]);
    places_.erase(pair);
    absl::flat_hash_set<Pair> risen;
    for (const int32_t w : where) {
      std::vector<int32_t>& ids = words_[w].ids;
      bool found = false;
      for (size_t i = 0; i + 1 < ids.size() && !found; ++i) {
        found = ids[i] == pair.first && ids[i + 1] == pair.second;
      }
      if (!found) continue;
      AddPairs(w, -1);
      size_t kept = 0;
      for (size_t i = 0; i < ids.size(); ++i) {
        if (i + 1 < ids.size() && ids[i] == pair.first &&
            ids[i + 1] == pair.second) {
          ids[kept++] = id;
          ++i;
        } else {
          ids[kept++] = ids[i];
        }
      }
      ids.resize(kept);
      AddPairs(w, +1, id);
      for (size_t i = 0; i + 1 < ids.size(); ++i) {
        const Pair here{ids[i], ids[i + 1]};
        if (here.first == id || here.second == id) risen.insert(here);
      }
    }
    for (const Pair& p : risen) heap_.push({pair_counts_[p], p});
  }

  std::string Json() const {
    using Json = nlohmann::ordered_json;
    const auto spelled = [&](int32_t id) {
      return id < static_cast<int32_t>(options_.specials.size())
                 ? tokens_[id]
                 : SpellBytes(tokens_[id]);
    };
    Json added = Json::array();
    for (size_t i = 0; i < options_.specials.size(); ++i) {
      added.push_back({{"id", i},
                       {"content", options_.specials[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    Json vocab = Json::object(), merges = Json::array();
    // Appended below the object's interface, which looks every key up first.
    auto& entries = vocab.get_ref<Json::object_t&>();
    for (size_t i = 0; i < tokens_.size(); ++i) {
      entries.emplace_back(spelled(static_cast<int32_t>(i)), i);
    }
    for (const auto& [left, right] : merges_) {
      merges.push_back(absl::StrCat(spelled(left), " ", spelled(right)));
    }
    const Json byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", true},
                             {"use_regex", true}};
    Json root;
    root["version"] = "1.0";
    root["truncation"] = nullptr;
    root["padding"] = nullptr;
    root["added_tokens"] = std::move(added);
    root["normalizer"] = nullptr;
    root["pre_tokenizer"] = byte_level;
    root["post_processor"] = nullptr;
    root["decoder"] = byte_level;
    root["model"] = {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"ignore_merges", false},
                     {"vocab", std::move(vocab)},
                     {"merges", std::move(merges)}};
    return root.dump(1) + "\n";
  }

  const TokenizerTrainOptions& options_;
  std::vector<std::string> tokens_;  // bytes by id; specials as they are
  absl::flat_hash_set<std::string> specials_;
  absl::flat_hash_map<std::string, int32_t> ids_;  // without the specials
  int32_t byte_ids_[256] = {};
  std::vector<Word> words_;
  absl::flat_hash_map<Pair, int64_t> pair_counts_;
  absl::flat_hash_map<Pair, std::vector<int32_t>> places_;
  std::priority_queue<Candidate> heap_;
  std::vector<Pair> merges_;
  absl::flat_hash_set<Pair> merged_;
};

}  // namespace

absl::StatusOr<std::string> TrainTokenizer(
    const std::vector<std::string>& documents,
    const TokenizerTrainOptions& options) {
  return Trainer(options).Run(documents);
}

}  // namespace motet::model
