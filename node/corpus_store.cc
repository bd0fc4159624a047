// SPDX-License-Identifier: Apache-2.0
#include "node/corpus_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::node {
namespace {

std::string ImportHint(const Settings& settings) {
  return absl::StrCat("`motet-node corpus import --dir ", settings.dir,
                      " FILE.jsonl ...`");
}

}  // namespace

absl::StatusOr<ImportResult> ImportCorpus(
    const Settings& settings, const std::vector<std::string>& files,
    int test_percent) {
  std::vector<std::string> documents;
  for (const std::string& file : files) {
    MOTET_ASSIGN_OR_RETURN(std::vector<std::string> more,
                           learn::ReadJsonl(file));
    for (std::string& d : more) documents.push_back(std::move(d));
  }
  learn::Split split = learn::DeduplicateAndSplit(documents, test_percent);
  if (split.train.empty()) {
    return proto::Invalid(
        "corpus import",
        absl::StrCat(documents.size(), " documents, none of them for training"),
        "some text to train on", "import more documents");
  }
  MOTET_RETURN_IF_ERROR(
      proto::MakeDirectories(settings.Path("corpus"), 0700));
  // Training text last: with it the corpus is the new one.
  MOTET_RETURN_IF_ERROR(
      learn::WriteJsonl(settings.Path("corpus/test.jsonl"), split.test));
  MOTET_RETURN_IF_ERROR(
      learn::WriteJsonl(settings.Path("corpus/train.jsonl"), split.train));
  ImportResult result;
  result.read = static_cast<int64_t>(documents.size());
  result.train = static_cast<int64_t>(split.train.size());
  result.test = static_cast<int64_t>(split.test.size());
  result.duplicates = split.duplicates;
  result.empty = split.empty;
  return result;
}

absl::StatusOr<Corpus> LoadCorpus(const Settings& settings,
                                  int64_t min_documents) {
  const std::string path = settings.Path("corpus/train.jsonl");
  if (!proto::Exists(path)) {
    return proto::Error(absl::StatusCode::kFailedPrecondition, path,
                        "no such file", "this owner's text",
                        absl::StrCat(ImportHint(settings),
                                     ", then approve the job again"));
  }
  Corpus corpus;
  MOTET_ASSIGN_OR_RETURN(proto::Digest digest, proto::Sha256File(path));
  corpus.sha256 = proto::Hex(digest);
  MOTET_ASSIGN_OR_RETURN(corpus.train, learn::ReadJsonl(path));
  const std::string test = settings.Path("corpus/test.jsonl");
  if (proto::Exists(test)) {
    MOTET_ASSIGN_OR_RETURN(corpus.test, learn::ReadJsonl(test));
  }
  if (static_cast<int64_t>(corpus.train.size()) < min_documents) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, path,
        absl::StrCat(corpus.train.size(), " documents"),
        absl::StrCat("at least ", min_documents,
                     " (policy.toml, [statistics] min_documents)"),
        absl::StrCat("import more with ", ImportHint(settings)));
  }
  return corpus;
}

}  // namespace motet::node
