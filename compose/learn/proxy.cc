// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/proxy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

constexpr int kHalves = 2;

using Features = std::vector<std::pair<uint32_t, float>>;  // bucket, value

// A-Z folded; letters, digits, '_' and all beyond ASCII make words, every
// other mark but white space is a word of its own: code and prose differ in
// these too.
std::vector<uint64_t> Words(const std::string& text, int64_t most) {
  std::vector<uint64_t> words;
  std::string word;
  const auto end = [&] {
    if (!word.empty()) words.push_back(Fnv1a(word));
    word.clear();
  };
  const size_t bytes = std::min(text.size(), static_cast<size_t>(most));
  for (size_t i = 0; i < bytes; ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 'A' && c <= 'Z') {
      word += static_cast<char>(c - 'A' + 'a');
    } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
               c >= 0x80) {
      word += static_cast<char>(c);
    } else {
      end();
      if (c > ' ') words.push_back(c);
    }
  }
  end();
  return words;
}

// x = log(1 + count) of each bucket, scaled to length 1; ascending buckets.
Features FeaturesOf(const std::string& text, const ProxyOptions& options) {
  std::unordered_map<uint32_t, int> counts;
  const auto buckets = static_cast<uint64_t>(options.buckets);
  uint64_t before = 0;
  for (const uint64_t word : Words(text, options.most_bytes)) {
    ++counts[static_cast<uint32_t>(Mix(word) % buckets)];
    if (before != 0) {
      ++counts[static_cast<uint32_t>(Mix(Mix(before) ^ word) % buckets)];
    }
    before = word;
  }
  Features features;
  double square = 0;
  for (const auto& [bucket, count] : counts) {
    const double x = std::log1p(count);
    features.push_back({bucket, static_cast<float>(x)});
    square += x * x;
  }
  std::sort(features.begin(), features.end());
  const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
  for (auto& [bucket, x] : features) x = static_cast<float>(x * scale);
  return features;
}

class Classifier {
 public:
  explicit Classifier(const ProxyOptions& options)
      : options_(options),
        weights_(static_cast<size_t>(options.buckets) + 1),
        squares_(weights_.size(), 1e-8) {}

  double LogOdds(const Features& x) const {
    double sum = weights_.back();
    for (const auto& [bucket, value] : x) sum += weights_[bucket] * value;
    return sum;
  }
  // AdaGrad on the weighted log loss of one document.
  void Learn(const Features& x, bool own, double weight) {
    const double p = 1 / (1 + std::exp(-LogOdds(x)));
    const double slope = weight * (p - (own ? 1 : 0));
    const auto step = [&](size_t at, double gradient) {
      gradient += options_.decay * weights_[at];
      squares_[at] += gradient * gradient;
      weights_[at] -=
          options_.learning_rate * gradient / std::sqrt(squares_[at]);
    };
    for (const auto& [bucket, value] : x) step(bucket, slope * value);
    step(weights_.size() - 1, slope);
  }

 private:
  const ProxyOptions& options_;
  std::vector<double> weights_, squares_;  // the last: b
};

struct Document {
  Features x;
  bool own = false;
  int half = 0;
};

int HalfOf(uint64_t hash) { return static_cast<int>(Mix(hash) % kHalves); }

// Up to `most` of the texts in a seeded order, without `shared` and doubles.
void Add(const std::vector<std::string>& texts, bool own,
         const std::unordered_set<uint64_t>& shared,
         const ProxyOptions& options, std::vector<Document>& to) {
  std::unordered_set<uint64_t> seen;
  const auto size = static_cast<int64_t>(texts.size());
  int64_t taken = 0;
  for (int64_t i = 0; i < size && taken < options.most_documents; ++i) {
    const std::string& text =
        texts[static_cast<size_t>(Shuffled(i, size, options.seed))];
    const uint64_t hash = Fnv1a(text);
    if (shared.contains(hash) || !seen.insert(hash).second) continue;
    to.push_back({FeaturesOf(text, options), own, HalfOf(hash)});
    ++taken;
  }
}

std::unordered_set<uint64_t> SharedOf(const std::vector<std::string>& a,
                                      const std::vector<std::string>& b) {
  std::unordered_set<uint64_t> first, shared;
  for (const std::string& text : a) first.insert(Fnv1a(text));
  for (const std::string& text : b) {
    const uint64_t hash = Fnv1a(text);
    if (first.contains(hash)) shared.insert(hash);
  }
  return shared;
}

Classifier Fit(const std::vector<Document>& documents, int without,
               const std::array<int64_t, 2>& count,
               const ProxyOptions& options) {
  Classifier classifier(options);
  std::vector<size_t> mine;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].half != without) mine.push_back(i);
  }
  const auto size = static_cast<int64_t>(mine.size());
  for (int64_t pass = 0; pass < options.passes; ++pass) {
    for (int64_t i = 0; i < size; ++i) {
      const uint64_t order = Mix(options.seed + static_cast<uint64_t>(pass));
      const Document& d =
          documents[mine[static_cast<size_t>(Shuffled(i, size, order))]];
      // Both sides weigh as much together.
      classifier.Learn(d.x, d.own,
                       static_cast<double>(size) /
                           (2.0 * static_cast<double>(count[d.own ? 1 : 0])));
    }
  }
  return classifier;
}

}  // namespace

absl::StatusOr<ProxyScores> ScorePublicText(
    const std::vector<std::string>& own,
    const std::vector<std::string>& public_text,
    const ProxyOptions& options) {
  const std::unordered_set<uint64_t> shared = SharedOf(own, public_text);
  std::vector<Document> documents;
  Add(own, true, shared, options, documents);
  Add(public_text, false, shared, options, documents);
  // [half][own]: documents in it.
  std::array<std::array<int64_t, 2>, kHalves> count = {};
  for (const Document& d : documents) ++count[d.half][d.own ? 1 : 0];
  for (const auto& half : count) {
    if (half[0] > 0 && half[1] > 0) continue;
    return proto::Invalid(
        "proxy scores",
        absl::StrCat(count[0][1] + count[1][1], " own documents and ",
                     count[0][0] + count[1][0], " public ones"),
        "some of both in either half", "import more text");
  }
  std::vector<Classifier> without;  // by the half left out
  for (int half = 0; half < kHalves; ++half) {
    without.push_back(Fit(documents, half, count[1 - half], options));
  }
  std::array<int64_t, 2> right = {};
  for (const Document& d : documents) {
    right[d.own ? 1 : 0] += (without[d.half].LogOdds(d.x) > 0) == d.own;
  }
  ProxyScores result;
  result.own = count[0][1] + count[1][1];
  result.other = count[0][0] + count[1][0];
  result.accuracy = 0.5 * (static_cast<double>(right[1]) /
                               static_cast<double>(result.own) +
                           static_cast<double>(right[0]) /
                               static_cast<double>(result.other));
  for (const std::string& text : public_text) {
    result.scores.push_back(static_cast<float>(
        without[HalfOf(Fnv1a(text))].LogOdds(FeaturesOf(text, options))));
  }
  return result;
}

std::vector<int64_t> ChooseProxy(
    const std::vector<std::vector<float>>& scores, int64_t documents,
    int64_t each, uint64_t seed) {
  std::set<int64_t> chosen;
  std::vector<int64_t> order(static_cast<size_t>(documents));
  for (const std::vector<float>& of : scores) {
    order.clear();
    for (int64_t i = 0; i < documents; ++i) {
      if (!std::isnan(of[static_cast<size_t>(i)])) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return of[static_cast<size_t>(a)] > of[static_cast<size_t>(b)];
    });
    const auto most = std::min<int64_t>(each, std::ssize(order));
    chosen.insert(order.begin(), order.begin() + most);
  }
  auto more = static_cast<int64_t>(chosen.size());
  std::set<int64_t> all = chosen;
  for (int64_t i = 0; i < documents && more > 0; ++i) {
    more -= all.insert(Shuffled(i, documents, seed)).second;
  }
  return {all.begin(), all.end()};
}

}  // namespace motet::learn
