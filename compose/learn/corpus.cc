// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/corpus.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "compose/math/tensor.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::learn {
namespace {

bool IsSpace(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' ||
         c == '\v';
}

std::string Fold(const std::string& text) {
  std::string folded;
  folded.reserve(text.size());
  bool gap = false;
  for (char c : text) {
    if (IsSpace(c)) {
      gap = !folded.empty();
      continue;
    }
    if (gap) folded.push_back(' ');
    gap = false;
    folded.push_back(c);
  }
  return folded;
}

// The document of one line, or what is wrong with the line.
absl::StatusOr<std::string> ParseLine(const std::string& line,
                                      const std::string& where) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (json.is_discarded()) {
    return proto::Invalid(where, "a line that is not JSON",
                          "{\"text\": \"...\"}", "correct or remove the line");
  }
  if (!json.is_object() || !json.contains("text") ||
      !json["text"].is_string()) {
    return proto::Invalid(where, "JSON without a string \"text\"",
                          "{\"text\": \"...\"}", "correct or remove the line");
  }
  return json["text"].get<std::string>();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadJsonl(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return proto::Error(absl::StatusCode::kNotFound, path,
                        std::strerror(errno), "a readable file",
                        "check the path and its permissions");
  }
  std::vector<std::string> documents;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const std::string where = absl::StrCat(path, ":", number);
    if (static_cast<int64_t>(line.size()) > proto::kMaxDocumentBytes) {
      return proto::Invalid(
          where, absl::StrCat("a line of ", line.size(), " bytes"),
          absl::StrCat("at most ", proto::kMaxDocumentBytes),
          "cut the document into smaller ones");
    }
    if (Fold(line).empty()) continue;
    MOTET_ASSIGN_OR_RETURN(std::string text, ParseLine(line, where));
    documents.push_back(std::move(text));
  }
  if (in.bad()) {
    return proto::Error(absl::StatusCode::kDataLoss, path, "a read error",
                        "the whole file");
  }
  return documents;
}

absl::Status WriteJsonl(const std::string& path,
                        const std::vector<std::string>& documents) {
  std::string out;
  for (const std::string& document : documents) {
    const nlohmann::json line = {{"text", document}};
    // Bytes that are not UTF-8 cannot be written as JSON; they become
    // U+FFFD.
    out += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    out += '\n';
  }
  return proto::WriteFileAtomic(path, out);
}

Split DeduplicateAndSplit(const std::vector<std::string>& documents,
                          int test_percent) {
  Split split;
  // By hash, the documents kept so far: a hash decides nothing alone.
  absl::flat_hash_map<uint64_t, std::vector<size_t>> seen;
  for (size_t i = 0; i < documents.size(); ++i) {
    const std::string folded = Fold(documents[i]);
    if (folded.empty()) {
      ++split.empty;
      continue;
    }
    const uint64_t hash = Fnv1a(folded);
    std::vector<size_t>& equal = seen[hash];
    bool duplicate = false;
    for (size_t other : equal) {
      duplicate = duplicate || Fold(documents[other]) == folded;
    }
    if (duplicate) {
      ++split.duplicates;
      continue;
    }
    equal.push_back(i);
    const bool test = static_cast<int>(hash % 100) < test_percent;
    (test ? split.test : split.train).push_back(documents[i]);
  }
  return split;
}

int32_t SeparatorOf(const model::Tokenizer& tokenizer, int32_t eos_id) {
  const int32_t id = tokenizer.IdOf("<|endoftext|>");
  return id >= 0 ? id : eos_id;
}

TokenWindows::TokenWindows(const model::Tokenizer& tokenizer,
                           const std::vector<std::string>& documents,
                           int32_t separator, int64_t window)
    : window_(window) {
  MOTET_CHECK(window >= 1);
  for (size_t i = 0; i < documents.size(); ++i) {
    if (i > 0 && separator >= 0) ids_.push_back(separator);
    if (starts_.empty() || starts_.back() < tokens()) {
      starts_.push_back(tokens());
    }
    const std::vector<int32_t> ids = tokenizer.Encode(documents[i]);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
}

int64_t TokenWindows::count() const { return tokens() / window_; }

std::span<const int32_t> TokenWindows::at(int64_t i) const {
  MOTET_CHECK(i >= 0 && i < count());
  return std::span(ids_).subspan(static_cast<size_t>(i * window_),
                                 static_cast<size_t>(window_));
}

std::vector<std::span<const int32_t>> TokenWindows::documents(
    int64_t i) const {
  const std::span<const int32_t> window = at(i);
  const int64_t first = i * window_, last = first + window_;
  std::vector<std::span<const int32_t>> parts;
  int64_t begin = first;
  const auto cut = [&](int64_t end) {
    if (end > begin) {
      parts.push_back(window.subspan(static_cast<size_t>(begin - first),
                                     static_cast<size_t>(end - begin)));
    }
    begin = end;
  };
  for (auto start = std::upper_bound(starts_.begin(), starts_.end(), first);
       start != starts_.end() && *start < last; ++start) {
    cut(*start);
  }
  cut(last);
  return parts;
}

BatchPlan::BatchPlan(int64_t own_windows, int64_t public_windows,
                     int64_t batch, double public_fraction, uint64_t seed)
    : own_(own_windows),
      public_(public_windows),
      batch_(batch),
      public_fraction_(public_windows == 0 ? 0
                       : own_windows == 0  ? 1
                                           : public_fraction),
      seed_(seed) {
  MOTET_CHECK(own_ + public_ > 0 && batch_ >= 1);
  MOTET_CHECK(public_fraction_ >= 0 && public_fraction_ <= 1);
}

std::vector<BatchPlan::Pick> BatchPlan::at(int64_t step) const {
  // How many of the first n picks are public.
  const auto publics = [this](int64_t n) {
    return static_cast<int64_t>(
        std::floor(static_cast<double>(n) * public_fraction_));
  };
  std::vector<Pick> picks;
  for (int64_t n = step * batch_; n < (step + 1) * batch_; ++n) {
    const int64_t before = publics(n);
    const bool from_public = publics(n + 1) > before;
    const int64_t index = from_public ? before : n - before;
    const int64_t size = from_public ? public_ : own_;
    const int64_t epoch = index / size;
    const uint64_t order =
        Mix(seed_ + 2 * static_cast<uint64_t>(epoch)) + (from_public ? 1 : 0);
    picks.push_back({from_public, Shuffled(index % size, size, order)});
  }
  return picks;
}

}  // namespace motet::learn
