// SPDX-License-Identifier: Apache-2.0
#include "node/corpus_store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
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

constexpr const char* kRetrievalFiles[] = {"corpus.jsonl", "queries.jsonl",
                                           "qrels/train.tsv"};

// Durably, in pieces: a corpus may be larger than memory.
absl::Status CopyFile(const std::string& from, const std::string& to) {
  const auto fail = [](const std::string& path) {
    return proto::Error(absl::ErrnoToStatusCode(errno), path,
                        absl::StrCat("\"", strerror(errno), "\""),
                        "a file that can be copied");
  };
  FILE* in = fopen(from.c_str(), "rbe");
  if (in == nullptr) return fail(from);
  FILE* out = fopen(to.c_str(), "wbxe");
  if (out == nullptr) {
    const absl::Status status = fail(to);
    (void)fclose(in);
    return status;
  }
  std::vector<char> piece(1 << 20);
  absl::Status status;
  for (size_t n; status.ok() &&
                 (n = fread(piece.data(), 1, piece.size(), in)) > 0;) {
    if (fwrite(piece.data(), 1, n, out) != n) status = fail(to);
  }
  if (status.ok() && ferror(in) != 0) status = fail(from);
  if (status.ok() && (fflush(out) != 0 || fsync(fileno(out)) != 0)) {
    status = fail(to);
  }
  (void)fclose(in);
  if (fclose(out) != 0 && status.ok()) status = fail(to);
  return status;
}

absl::StatusOr<retrieve::BeirSet> ReadTraining(const std::string& folder) {
  retrieve::BeirOptions options;
  options.split = "train";
  return retrieve::ReadBeir(folder, options);
}

}  // namespace

absl::StatusOr<RetrievalImport> ImportRetrieval(const Settings& settings,
                                                const std::string& folder) {
  const std::string to = settings.Path("corpus/retrieval");
  const std::string fresh = to + ".new";
  std::error_code ignored;
  std::filesystem::remove_all(fresh, ignored);
  MOTET_RETURN_IF_ERROR(
      proto::MakeDirectories(settings.Path("corpus"), 0700));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(fresh + "/qrels", 0700));
  // Copied first: what is checked is what is kept.
  RetrievalImport result;
  const auto take = [&]() -> absl::Status {
    for (const char* name : kRetrievalFiles) {
      MOTET_RETURN_IF_ERROR(CopyFile(absl::StrCat(folder, "/", name),
                                     absl::StrCat(fresh, "/", name)));
    }
    MOTET_ASSIGN_OR_RETURN(const retrieve::BeirSet set, ReadTraining(fresh));
    result.documents = static_cast<int64_t>(set.documents.size());
    result.empty_documents = set.empty_documents;
    result.queries = static_cast<int64_t>(set.queries.size());
    for (const auto& [query, judged] : set.judgements) {
      result.judgements += static_cast<int64_t>(judged.size());
    }
    MOTET_RETURN_IF_ERROR(proto::SyncDirectory(fresh + "/qrels"));
    MOTET_RETURN_IF_ERROR(proto::SyncDirectory(fresh));
    return proto::ExchangeDurably(fresh, to);
  };
  const absl::Status status = take();
  std::filesystem::remove_all(fresh, ignored);  // the old one, or a failed one
  if (status.ok()) {
    // Vectors of documents that may be gone now.
    std::filesystem::remove_all(settings.Path("corpus/vectors"), ignored);
    return result;
  }
  // In the words of the folder that was given.
  return absl::Status(status.code(),
                      absl::StrReplaceAll(std::string(status.message()),
                                          {{fresh, folder}}));
}

absl::StatusOr<RetrievalCorpus> LoadRetrieval(const Settings& settings,
                                              int64_t min_queries) {
  const std::string folder = settings.Path("corpus/retrieval");
  const std::string hint = absl::StrCat("`motet-node corpus import --dir ",
                                        settings.dir, " BEIR_FOLDER`");
  if (!proto::Exists(folder)) {
    return proto::Error(absl::StatusCode::kFailedPrecondition, folder,
                        "no such folder",
                        "this owner's documents, queries and judgements",
                        absl::StrCat(hint, ", then approve the job again"));
  }
  RetrievalCorpus corpus;
  std::string digests;
  for (const char* name : kRetrievalFiles) {
    MOTET_ASSIGN_OR_RETURN(
        const proto::Digest digest,
        proto::Sha256File(absl::StrCat(folder, "/", name)));
    absl::StrAppend(&digests, name, " ", proto::Hex(digest), "\n");
  }
  corpus.sha256 = proto::Hex(proto::Sha256(digests));
  MOTET_ASSIGN_OR_RETURN(corpus.set, ReadTraining(folder));
  if (static_cast<int64_t>(corpus.set.queries.size()) < min_queries) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, folder,
        absl::StrCat(corpus.set.queries.size(), " judged training queries"),
        absl::StrCat("at least ", min_queries,
                     " (policy.toml, [pilots] min_queries)"),
        absl::StrCat("import more with ", hint));
  }
  return corpus;
}

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
