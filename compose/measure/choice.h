// SPDX-License-Identifier: Apache-2.0
// Multiple choice by log-likelihood, as lm-eval counts it: of each question's
// choices the likeliest one is the answer. docs/evaluation.md has the layout
// of the file and the definitions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/served_model.h"

namespace motet::measure {

struct Question {
  std::string query;                 // not empty, nor white space alone
  std::vector<std::string> choices;  // two or more, none empty
  size_t gold = 0;                   // the right one's index
};
// Lines {"query": text, "choices": [text, ...], "gold": index or the choice
// itself}; other fields are passed over, blank lines too. A bad line is an
// error that names file, line and field.
absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path);

struct ChoiceOptions {
  std::string delimiter = " ";  // between query and choice
  math::ExpertMask allowed = ~math::ExpertMask{0};
  math::Product product = math::Product::kExact;
  std::function<void(double fraction)> progress;
};
struct Accuracy {
  double value = 0;
  double stderror = 0;  // sqrt(p (1 - p) / (n - 1)); 0 for n = 1
};
struct ChoiceScore {
  std::vector<std::vector<double>> log_likelihoods;  // [questions][choices]
  Accuracy acc;        // argmax of ln p(choice | query)
  Accuracy acc_norm;   // of ln p / characters of the choice
  Accuracy acc_bytes;  // of ln p / UTF-8 bytes of the choice
};
//   ln p(choice | query) = sum_t ln softmax(logits_{t-1})[id_t]
// over the tokens of query + delimiter + choice that are beyond those of the
// query, both encoded by themselves; the query's white space at its end goes
// to the choice first. Where the whole exceeds the context, its beginning is
// cut. Ties go to the first choice. The score of a question does not depend
// on the others.                                            [lm-eval 0.4.13]
absl::StatusOr<ChoiceScore> ScoreChoices(const assemble::ServedModel& model,
                                         const std::vector<Question>& questions,
                                         const ChoiceOptions& options);

// From log-likelihoods alone. questions: one or more.
ChoiceScore Judge(const std::vector<Question>& questions,
                  std::vector<std::vector<double>> log_likelihoods);

}  // namespace motet::measure
