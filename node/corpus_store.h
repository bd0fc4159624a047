// SPDX-License-Identifier: Apache-2.0
// The owner's text: corpus/train.jsonl and corpus/test.jsonl, written by
// `motet-node corpus import` and read by training. It never leaves this
// folder; errors from here are for the owner's eyes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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

struct Corpus {
  std::vector<std::string> train, test;
  std::string sha256;  // of train.jsonl
};
// FailedPrecondition, with the command to use, when there is none or it has
// fewer documents than min_documents.
absl::StatusOr<Corpus> LoadCorpus(const Settings& settings,
                                  int64_t min_documents);

}  // namespace motet::node
