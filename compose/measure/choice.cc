// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/choice.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/math/exec.h"
#include "compose/measure/perplexity.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::measure {
namespace {

constexpr char kSpace[] = " \t\n\v\f\r\x1c\x1d\x1e\x1f";
constexpr char kLayout[] =
    "{\"query\": text, \"choices\": [text, text, ...], \"gold\": index}";
constexpr int64_t kBatchRows = 1024;

// Code points: what Python's len counts.
int64_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (c & 0xC0) != 0x80; });
}

absl::StatusOr<size_t> GoldOf(const nlohmann::json& gold,
                              const std::vector<std::string>& choices,
                              const std::string& where) {
  if (gold.is_string()) {
    const auto it = std::find(choices.begin(), choices.end(),
                              gold.get<std::string>());
    if (it != choices.end()) return it - choices.begin();
  } else if (gold.is_number_unsigned() &&
             gold.get<uint64_t>() < choices.size()) {
    return gold.get<size_t>();
  }
  const std::string got = gold.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
  return proto::Invalid(where, absl::StrCat("\"gold\": ", got),
                        absl::StrCat("0 to ", choices.size() - 1,
                                     ", or one of the choices"));
}

absl::StatusOr<Question> ParseQuestion(const std::string& line,
                                       const std::string& where) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) {
    return proto::Invalid(where, "a line that is no JSON object", kLayout);
  }
  for (const char* field : {"query", "choices", "gold"}) {
    if (json.contains(field)) continue;
    return proto::Invalid(where, absl::StrCat("no \"", field, "\""), kLayout);
  }
  Question question;
  if (json["query"].is_string()) question.query = json["query"];
  if (question.query.find_last_not_of(kSpace) == std::string::npos) {
    return proto::Invalid(where, "a \"query\" without text", kLayout);
  }
  if (json["choices"].is_array()) {
    for (const auto& choice : json["choices"]) {
      if (!choice.is_string() || choice.get<std::string>().empty()) {
        return proto::Invalid(
            where,
            absl::StrCat("\"choices\"[", question.choices.size(),
                         "] that is no text"),
            kLayout);
      }
      question.choices.push_back(choice);
    }
  }
  if (question.choices.size() < 2) {
    return proto::Invalid(
        where, absl::StrCat(question.choices.size(), " \"choices\""),
        "at least two");
  }
  MOTET_ASSIGN_OR_RETURN(
      question.gold, GoldOf(json["gold"], question.choices, where));
  return question;
}

// One choice as tokens; ids[scored..] are its own.
struct Pair {
  std::vector<int32_t> ids;
  size_t scored = 0;
};

absl::StatusOr<Pair> Encode(const assemble::ServedModel& model,
                            std::string query, std::string choice,
                            const std::string& where) {
  const size_t end = query.find_last_not_of(kSpace) + 1;
  choice = query.substr(end) + choice;
  query.resize(end);
  Pair pair;
  pair.ids = model.tokenizer().Encode(query + choice);
  pair.scored = model.tokenizer().Encode(query).size();
  if (pair.scored == 0 || pair.scored >= pair.ids.size()) {
    return proto::Invalid(where, "a choice without tokens of its own",
                          "at least one beyond the query's",
                          "choose another --delimiter");
  }
  MOTET_RETURN_IF_ERROR(CheckIds(pair.ids, model.config.vocabulary));
  // The model reads all but the last token.
  const auto most = static_cast<size_t>(model.config.max_positions) + 1;
  if (pair.ids.size() > most) {
    const size_t cut = pair.ids.size() - most;
    if (cut >= pair.scored) {
      return proto::Invalid(
          where,
          absl::StrCat("a choice of ", pair.ids.size() - pair.scored,
                       " tokens"),
          absl::StrCat("at most the model's context of ", most - 1));
    }
    pair.ids.erase(pair.ids.begin(),
                   pair.ids.begin() + static_cast<std::ptrdiff_t>(cut));
    pair.scored -= cut;
  }
  return pair;
}

// ln p of the choices of pairs [first, last), run together.
void ScoreBatch(const model::Scorer& scorer, const ChoiceOptions& options,
                std::span<const Pair> pairs, std::span<double> out) {
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, options.product);
  std::vector<model::ScorerInput> inputs;
  std::vector<model::RowRange> wanted;  // those before the choices' tokens
  std::vector<size_t> pair_of;          // [rows]
  std::vector<int32_t> targets;         // [rows]
  for (size_t p = 0; p < pairs.size(); ++p) {
    const Pair& pair = pairs[p];
    out[p] = 0;
    inputs.push_back({std::span(pair.ids).first(pair.ids.size() - 1)});
    wanted.push_back({static_cast<int64_t>(targets.size() + pair.scored) - 1,
                      static_cast<int64_t>(pair.ids.size() - pair.scored)});
    targets.insert(targets.end(), pair.ids.begin() + 1, pair.ids.end());
    pair_of.resize(targets.size(), p);
  }
  scorer.Run(exec, inputs, wanted,
             [&](int64_t row, const math::Tensor& logits) {
               const auto first = static_cast<size_t>(row);
               const auto rows = static_cast<size_t>(logits.rows());
               math::Tensor nll = arena.New({logits.rows()});
               exec.CrossEntropy(
                   logits, std::span(targets).subspan(first, rows), 0.0, &nll);
               for (size_t i = 0; i < rows; ++i) {
                 out[pair_of[first + i]] -= nll.f32()[i];
               }
               return true;
             });
}

size_t ArgMax(const std::vector<double>& values) {
  return static_cast<size_t>(
      std::max_element(values.begin(), values.end()) - values.begin());
}

Accuracy AccuracyOf(int64_t right, size_t questions) {
  const auto n = static_cast<double>(questions);
  Accuracy accuracy;
  accuracy.value = static_cast<double>(right) / n;
  if (questions > 1) {
    accuracy.stderror =
        std::sqrt(accuracy.value * (1 - accuracy.value) / (n - 1));
  }
  return accuracy;
}

}  // namespace

absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return proto::Error(absl::StatusCode::kNotFound, path,
                        std::strerror(errno), "a readable file",
                        "check the path and its permissions");
  }
  std::vector<Question> questions;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const std::string where = absl::StrCat(path, ":", number);
    if (static_cast<int64_t>(line.size()) > proto::kMaxDocumentBytes) {
      return proto::Invalid(where,
                            absl::StrCat("a line of ", line.size(), " bytes"),
                            absl::StrCat("at most ", proto::kMaxDocumentBytes));
    }
    if (line.find_first_not_of(kSpace) == std::string::npos) continue;
    MOTET_ASSIGN_OR_RETURN(Question question, ParseQuestion(line, where));
    questions.push_back(std::move(question));
  }
  if (in.bad()) {
    return proto::Error(absl::StatusCode::kDataLoss, path, "a read error",
                        "the whole file");
  }
  if (questions.empty()) {
    return proto::Invalid(path, "no question", kLayout);
  }
  return questions;
}

ChoiceScore Judge(const std::vector<Question>& questions,
                  std::vector<std::vector<double>> log_likelihoods) {
  int64_t right = 0, right_norm = 0, right_bytes = 0;
  for (size_t q = 0; q < questions.size(); ++q) {
    const Question& question = questions[q];
    const std::vector<double>& plain = log_likelihoods[q];
    std::vector<double> norm = plain, bytes = plain;
    for (size_t c = 0; c < plain.size(); ++c) {
      norm[c] /= static_cast<double>(Characters(question.choices[c]));
      bytes[c] /= static_cast<double>(question.choices[c].size());
    }
    right += ArgMax(plain) == question.gold;
    right_norm += ArgMax(norm) == question.gold;
    right_bytes += ArgMax(bytes) == question.gold;
  }
  ChoiceScore score;
  score.log_likelihoods = std::move(log_likelihoods);
  score.acc = AccuracyOf(right, questions.size());
  score.acc_norm = AccuracyOf(right_norm, questions.size());
  score.acc_bytes = AccuracyOf(right_bytes, questions.size());
  return score;
}

absl::StatusOr<ChoiceScore> ScoreChoices(
    const assemble::ServedModel& model, const std::vector<Question>& questions,
    const ChoiceOptions& options) {
  std::vector<Pair> pairs;
  for (size_t q = 0; q < questions.size(); ++q) {
    for (const std::string& choice : questions[q].choices) {
      MOTET_ASSIGN_OR_RETURN(
          Pair pair, Encode(model, questions[q].query,
                            options.delimiter + choice,
                            absl::StrCat("question ", q + 1)));
      pairs.push_back(std::move(pair));
    }
  }
  const math::ExpertMask set =
      model.experts.empty() ? options.allowed : options.allowed & model.All();
  MOTET_ASSIGN_OR_RETURN(const auto scorer, model.ScorerFor(set));
  std::vector<double> flat(pairs.size());
  for (size_t first = 0; first < pairs.size();) {
    size_t last = first;
    int64_t rows = 0;
    do {
      rows += static_cast<int64_t>(pairs[last++].ids.size());
    } while (last < pairs.size() && rows < kBatchRows);
    ScoreBatch(*scorer, options, std::span(pairs).subspan(first, last - first),
               std::span(flat).subspan(first, last - first));
    first = last;
    if (options.progress) {
      options.progress(static_cast<double>(first) /
                       static_cast<double>(pairs.size()));
    }
  }
  std::vector<std::vector<double>> log_likelihoods;
  auto next = flat.begin();
  for (const Question& question : questions) {
    const auto end =
        next + static_cast<std::ptrdiff_t>(question.choices.size());
    log_likelihoods.emplace_back(next, end);
    next = end;
  }
  for (const double value : flat) {
    if (std::isfinite(value)) continue;
    return proto::Error(absl::StatusCode::kDataLoss, "choice",
                        "a score that is no finite number", "a finite one",
                        "look for NaN or infinite weights");
  }
  return Judge(questions, std::move(log_likelihoods));
}

}  // namespace motet::measure
