// SPDX-License-Identifier: Apache-2.0
// Documents, queries and judgements in BEIR layout, as files bring them:
//
//   corpus.jsonl       {"_id", "title", "text", "metadata": {field: value}}
//   queries.jsonl      {"_id", "text"}
//   qrels/SPLIT.tsv    query-id, corpus-id, score; the first line is a head
//
// Read line by line; whatever is wrong is an error that names file and line.
// Nothing is cut here: an encoder's limit is the encoder's (text_encoder.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::retrieve {

struct Document {
  std::string id, title, text;
  // Values as text: numbers and booleans as JSON writes them.
  std::map<std::string, std::string> metadata;
};
// What is encoded and counted: the title, a space and the text; the text
// alone where there is no title.
std::string TextOf(const Document& document);
// Neither title nor text holds anything but white space.
bool IsEmpty(const Document& document);

struct Query {
  std::string id, text;
};
struct Judgement {
  std::string query, document;
  int score = 0;  // relevant above 0
};
// By query, by document.
using Judgements = std::map<std::string, std::map<std::string, int>>;

// One line each; `where` begins an error.
absl::StatusOr<Document> ParseDocument(absl::string_view line,
                                       const std::string& where);
absl::StatusOr<Query> ParseQuery(absl::string_view line,
                                 const std::string& where);
absl::StatusOr<Judgement> ParseJudgement(absl::string_view line,
                                         const std::string& where);

// Calls `take` for every line of a corpus.jsonl; the first error, its own or
// take's, ends it. Blank lines are passed over. An id given twice is an error
// that names both lines.
absl::Status ForEachDocument(
    const std::string& path,
    const std::function<absl::Status(Document document,
                                     const std::string& where)>& take);

struct BeirOptions {
  std::string split = "test";
  // A judgement of a document that the corpus has not: an error, or counted
  // and kept, so that nothing can find it.
  bool allow_missing = false;
};
struct BeirSet {
  std::vector<Document> documents;  // in the file's order
  std::vector<Query> queries;       // those that are judged, likewise
  Judgements judgements;
  int64_t empty_documents = 0;
  int64_t missing_documents = 0;  // judgements of such
};
// InvalidArgument for an id given twice, a judgement given twice or of an
// unknown query or document, an empty query that is judged, and a split
// without judgements.
absl::StatusOr<BeirSet> ReadBeir(const std::string& folder,
                                 const BeirOptions& options);

}  // namespace motet::retrieve
