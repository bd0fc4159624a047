// SPDX-License-Identifier: Apache-2.0
// Proxy data [METHODS 1.6]: which public documents read like an owner's. A
// classifier of own against public text scores the public documents; scores
// leave the owner, text does not.
//
// Features are words and pairs of neighbouring words, hashed: no model runs,
// so a node scores thousands of documents in a second, and the words of a
// domain tell it apart at least as well as a small base's hidden states.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace motet::learn {

struct ProxyOptions {
  int64_t buckets = 1 << 16;      // of hashed features
  int64_t passes = 8;             // over the training documents
  double learning_rate = 0.5;     // AdaGrad
  double decay = 1e-5;            // of squared weights
  int64_t most_documents = 4000;  // of either side that are learned from
  int64_t most_bytes = 20000;     // of a document that are read
  uint64_t seed = 1;
};

struct ProxyScores {
  std::vector<float> scores;  // log odds of "own", one a public document
  double accuracy = 0;        // held out: mean of both sides' recall
  int64_t own = 0, other = 0;  // documents learned from and judged
};

// Logistic regression over hashed words, sides weighted alike:
//   p(own | d) = sigmoid(w . x(d) + b),  x = log(1 + count), of length 1
// In two halves, by the hash of the text: a document is scored by the half
// that it was not in, so a score never says what was learned by heart. Texts
// that both sides have are left out of learning and judging. A function of
// texts and options. InvalidArgument where a half lacks a side.
absl::StatusOr<ProxyScores> ScorePublicText(
    const std::vector<std::string>& own,
    const std::vector<std::string>& public_text,
    const ProxyOptions& options = {});

// The proxy data of a composition: for each expert the `each` documents that
// its scores put highest (ties to the lowest index), each once, and as many
// others of the public text, drawn uniformly by seed, as there are then; fewer
// where there are none left. Ascending indices. scores: by expert, one a
// document; NaN: the expert has not scored it.
std::vector<int64_t> ChooseProxy(
    const std::vector<std::vector<float>>& scores, int64_t documents,
    int64_t each, uint64_t seed);

}  // namespace motet::learn
