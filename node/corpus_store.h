// SPDX-License-Identifier: Apache-2.0
// The owner's text: corpus/train.jsonl and corpus/test.jsonl, written by
// `motet-node corpus import` and read by training; and beside it, where a BEIR
// folder was imported, corpus/retrieval/ with documents, queries and training
// judgements. It never leaves this folder; errors from here are for the
// owner's eyes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/retrieve/beir.h"
#include "node/settings.h"

namespace motet::node {

struct ImportResult {
  int64_t read = 0;        // documents in the files
  int64_t train = 0, test = 0;
  int64_t duplicates = 0, empty = 0;
};
// Reads {"text": ...} lines of all files, de-duplicates them together, splits
// by hash and replaces the corpus. On an error the old corpus is untouched.
absl::StatusOr<ImportResult> ImportCorpus(
    const Settings& settings, const std::vector<std::string>& files,
    int test_percent);

struct RetrievalImport {
  int64_t documents = 0, empty_documents = 0;
  int64_t queries = 0, judgements = 0;  // of qrels/train.tsv
};
// A folder with corpus.jsonl, queries.jsonl and qrels/train.tsv, checked as
// compose/retrieve/beir.h says, takes the place of corpus/retrieval whole. On
// an error the old one is untouched; so is the other corpus always.
absl::StatusOr<RetrievalImport> ImportRetrieval(const Settings& settings,
                                                const std::string& folder);

struct RetrievalCorpus {
  retrieve::BeirSet set;
  std::string sha256;  // over the digests of the three files
};
// FailedPrecondition, with the command to use, when there is none or fewer
// than min_queries are judged.
absl::StatusOr<RetrievalCorpus> LoadRetrieval(const Settings& settings,
                                              int64_t min_queries);

struct Corpus {
  std::vector<std::string> train, test;
  std::string sha256;  // of train.jsonl
};
// FailedPrecondition, with the command to use, when there is none or it has
// fewer documents than min_documents.
absl::StatusOr<Corpus> LoadCorpus(const Settings& settings,
                                  int64_t min_documents);

}  // namespace motet::node
