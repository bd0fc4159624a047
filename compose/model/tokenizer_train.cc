// SPDX-License-Identifier: Apache-2.0
// Training byte-level BPE and WordPiece: words are counted once, then the most frequent
// pair is merged in the words that have it, again and again. Counts of pairs
// move with each merge; a heap finds the next pair, a list a pair says which
// words to touch. Ties go to the lower pair of ids, so the same documents
// always give the same bytes. WordPiece is trained as the stock library does:
// merges of pieces by frequency, from characters instead of bytes; only the
// vocabulary is kept.
#include <algorithm>
#include <cstdint>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "compose/model/normalizer.h"
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

constexpr size_t kMostCharacters = 1000;  // of WordPiece's alphabet
constexpr absl::string_view kContinued = "##";
const char* const kBertSpecials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]",
                                     "[MASK]"};

nlohmann::ordered_json BertNormalizerPart() {
  return {{"type", "BertNormalizer"},
          {"clean_text", true},
          {"handle_chinese_chars", true},
          {"strip_accents", nullptr},
          {"lowercase", true}};
}

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
  explicit Trainer(const TokenizerTrainOptions& options) : options_(options) {
    if (!options.wordpiece) return;
    options_.specials.assign(std::begin(kBertSpecials),
                             std::end(kBertSpecials));
  }

  absl::StatusOr<std::string> Run(const std::vector<std::string>& documents) {
    MOTET_RETURN_IF_ERROR(CheckOptions());
    tokens_ = options_.specials;
    specials_.insert(tokens_.begin(), tokens_.end());
    if (!options_.wordpiece) MakeAlphabet();
    MOTET_RETURN_IF_ERROR(CountWords(documents));
    CountPairs();
    MOTET_RETURN_IF_ERROR(Merge());
    return options_.wordpiece ? WordPieceJson() : Json();
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
    std::unique_ptr<Pretokenizer> split = Pretokenizer::ByteLevel();
    Normalizer normalizer;
    if (options_.wordpiece) {
      MOTET_ASSIGN_OR_RETURN(
          split, Pretokenizer::Parse({{"type", "BertPreTokenizer"}}));
      MOTET_ASSIGN_OR_RETURN(normalizer,
                             Normalizer::Parse(BertNormalizerPart()));
    }
    Pretokenizer::Scratch scratch;
    std::string normal;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (Stopped(kCountingShare * i / documents.size())) return Cancelled();
      absl::string_view text = documents[i];
      while (!text.empty()) {
        const size_t valid = ValidUtf8Prefix(text);
        normal.assign(text.data(), valid);
        normalizer.Normalize(normal);
        split->Split(normal, scratch);
        for (absl::string_view word : scratch.words) ++counts[word];
        // Bytes that are no UTF-8 stand alone and need no merges.
        text.remove_prefix(std::min(text.size(), valid + 1));
      }
    }
    std::vector<std::pair<std::string, int64_t>> sorted(counts.begin(),
                                                        counts.end());
    std::sort(sorted.begin(), sorted.end());
    if (options_.wordpiece) {
      TakeCharacters(sorted);
      return absl::OkStatus();
    }
    for (const auto& [bytes, count] : sorted) {
      Word word;
      word.count = count;
      for (const unsigned char b : bytes) word.ids.push_back(byte_ids_[b]);
      words_.push_back(std::move(word));
    }
    return absl::OkStatus();
  }

  static std::vector<std::string> Characters(absl::string_view word) {
    std::vector<std::string> characters;
    for (size_t at = 0; at < word.size();) {
      const size_t begin = at;
      NextCodePoint(word, at);
      characters.emplace_back(word.substr(begin, at - begin));
    }
    return characters;
  }

  // The alphabet of WordPiece, and words of it; words with other characters
  // are unknown ones and teach nothing.
  void TakeCharacters(
      const std::vector<std::pair<std::string, int64_t>>& words) {
    absl::flat_hash_map<std::string, int64_t> counts;
    for (const auto& [word, count] : words) {
      for (const std::string& c : Characters(word)) counts[c] += count;
    }
    std::vector<std::pair<int64_t, std::string>> order;
    for (const auto& [c, count] : counts) order.push_back({-count, c});
    std::sort(order.begin(), order.end());
    // Each takes two tokens; half of the vocabulary is left for longer ones.
    const auto room = static_cast<size_t>(options_.vocabulary / 4);
    order.resize(std::min({order.size(), kMostCharacters, room}));
    std::vector<std::string> alphabet;
    for (const auto& [count, c] : order) alphabet.push_back(c);
    std::sort(alphabet.begin(), alphabet.end());
    for (const std::string& c : alphabet) AddToken(c);
    for (const std::string& c : alphabet) {
      AddToken(absl::StrCat(kContinued, c));
    }
    for (const auto& [text, count] : words) {
      Word word;
      word.count = count;
      for (const std::string& c : Characters(text)) {
        const auto found = ids_.find(
            word.ids.empty() ? c : absl::StrCat(kContinued, c));
        if (found == ids_.end()) {
          word.ids.clear();
          break;
        }
        word.ids.push_back(found->second);
      }
      if (!word.ids.empty()) words_.push_back(std::move(word));
    }
  }

  // What two tokens beside each other spell.
  std::string Joined(const Pair& pair) const {
    absl::string_view right = tokens_[pair.second];
    if (options_.wordpiece) right.remove_prefix(kContinued.size());
    return absl::StrCat(tokens_[pair.first], right);
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
      const std::string bytes = Joined(top.pair);
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

  nlohmann::ordered_json AddedTokens() const {
    auto added = nlohmann::ordered_json::array();
    for (size_t i = 0; i < options_.specials.size(); ++i) {
      added.push_back({{"id", i},
                       {"content", options_.specials[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    return added;
  }

  std::string WordPieceJson() const {
    using Json = nlohmann::ordered_json;
    Json vocab = Json::object();
    auto& entries = vocab.get_ref<Json::object_t&>();
    for (size_t i = 0; i < tokens_.size(); ++i) {
      entries.emplace_back(tokens_[i], i);
    }
    const auto special = [](const char* name, int type) {
      return Json{{"SpecialToken", {{"id", name}, {"type_id", type}}}};
    };
    const auto sequence = [](const char* name, int type) {
      return Json{{"Sequence", {{"id", name}, {"type_id", type}}}};
    };
    const auto entry = [&](const char* name) {
      const size_t id = std::find(options_.specials.begin(),
                                  options_.specials.end(), name) -
                        options_.specials.begin();
      return Json{{"id", name},
                  {"ids", Json::array({id})},
                  {"tokens", Json::array({name})}};
    };
    Json root;
    root["version"] = "1.0";
    root["truncation"] = nullptr;
    root["padding"] = nullptr;
    root["added_tokens"] = AddedTokens();
    root["normalizer"] = BertNormalizerPart();
    root["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
    root["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", Json::array({special("[CLS]", 0), sequence("A", 0),
                                special("[SEP]", 0)})},
        {"pair", Json::array({special("[CLS]", 0), sequence("A", 0),
                              special("[SEP]", 0), sequence("B", 1),
                              special("[SEP]", 1)})},
        {"special_tokens",
         {{"[CLS]", entry("[CLS]")}, {"[SEP]", entry("[SEP]")}}}};
    root["decoder"] = {
        {"type", "WordPiece"}, {"prefix", kContinued}, {"cleanup", true}};
    root["model"] = {{"type", "WordPiece"},
                     {"unk_token", "[UNK]"},
                     {"continuing_subword_prefix", kContinued},
                     {"max_input_chars_per_word", 100},
                     {"vocab", std::move(vocab)}};
    return root.dump(1) + "\n";
  }

  std::string Json() const {
    using Json = nlohmann::ordered_json;
    const auto spelled = [&](int32_t id) {
      return id < static_cast<int32_t>(options_.specials.size())
                 ? tokens_[id]
                 : SpellBytes(tokens_[id]);
    };
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
    root["added_tokens"] = AddedTokens();
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

  TokenizerTrainOptions options_;
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
