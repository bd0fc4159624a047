// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/beir.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "compose/model/strict_json.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::retrieve {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr char kHint[] = "correct or remove the line";

bool Blank(absl::string_view text) {
  return absl::StripAsciiWhitespace(text).empty();
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 60;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kShown)),
                      text.size() > kShown ? "…\"" : "\"");
}

// The string at `key`; required, or "" where there is none.
absl::StatusOr<std::string> StringAt(const json& object, const char* key,
                                     bool required, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() && !required) return "";
  if (found == object.end() || !found->is_string()) {
    return Invalid(where, absl::StrCat("no string \"", key, "\""),
                   absl::StrCat("{\"_id\": …, \"", key, "\": \"…\"}"), kHint);
  }
  return found->get<std::string>();
}

absl::StatusOr<json> ObjectOf(absl::string_view line,
                              const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(json object, model::ParseStrictJson(line, where));
  if (!object.is_object()) {
    return Invalid(where, "JSON that is no object", "{\"_id\": \"…\", …}",
                   kHint);
  }
  return object;
}

// Ids stand in run files, whose columns are cut at white space.
absl::StatusOr<std::string> IdOf(const json& object, const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(std::string id, StringAt(object, "_id", true, where));
  if (id.empty() || static_cast<int64_t>(id.size()) > proto::kMaxIdLength ||
      id.find_first_of(" \t\n\r\v\f\0", 0, 7) != std::string::npos) {
    return Invalid(where, absl::StrCat("\"_id\": ", Quoted(id)),
                   absl::StrCat("1 to ", proto::kMaxIdLength,
                                " bytes without white space"),
                   kHint);
  }
  return id;
}

absl::Status ReadMetadata(const json& object, const std::string& where,
                          std::map<std::string, std::string>& metadata) {
  const auto found = object.find("metadata");
  if (found == object.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_object()) {
    return Invalid(where, "\"metadata\" that is no object",
                   "{\"field\": \"value\", …}", kHint);
  }
  for (const auto& [field, value] : found->items()) {
    if (field.empty() ||
        field.find_first_of("=\0", 0, 2) != std::string::npos) {
      return Invalid(where, absl::StrCat("a metadata field ", Quoted(field)),
                     "a name without \"=\"", kHint);
    }
    if (value.is_null()) continue;
    if (value.is_string()) {
      metadata[field] = value.get<std::string>();
    } else if (value.is_number() || value.is_boolean()) {
      metadata[field] = value.dump();
    } else {
      return Invalid(
          where,
          absl::StrCat("metadata ", Quoted(field), ": ", value.type_name()),
          "a string, a number, true or false", kHint);
    }
    const std::string& text = metadata[field];
    if (static_cast<int64_t>(field.size() + text.size()) >
            proto::kMaxIdLength ||
        text.find('\0') != std::string::npos) {
      return Invalid(where,
                     absl::StrCat("metadata ", Quoted(field), " of ",
                                  text.size(), " bytes"),
                     absl::StrCat("name and value of at most ",
                                  proto::kMaxIdLength, " bytes, no NUL"),
                     kHint);
    }
  }
  return absl::OkStatus();
}

// Calls `take` with every line that is not blank.
absl::Status ForEachLine(
    const std::string& path,
    const std::function<absl::Status(absl::string_view line,
                                     const std::string& where, int64_t number)>&
        take) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return proto::Error(absl::StatusCode::kNotFound, path, std::strerror(errno),
                        "a readable file",
                        "BEIR layout is corpus.jsonl, queries.jsonl and "
                        "qrels/SPLIT.tsv in one folder");
  }
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const std::string where = absl::StrCat(path, ":", number);
    if (static_cast<int64_t>(line.size()) > proto::kMaxDocumentBytes) {
      return Invalid(where, absl::StrCat("a line of ", line.size(), " bytes"),
                     absl::StrCat("at most ", proto::kMaxDocumentBytes),
                     "split the document");
    }
    if (Blank(line)) continue;
    MOTET_RETURN_IF_ERROR(take(line, where, number));
  }
  if (in.bad()) {
    return proto::Error(absl::StatusCode::kDataLoss, path, "a read error",
                        "a readable file", "check the disk");
  }
  return absl::OkStatus();
}

// The lines on which ids stand.
class Ids {
 public:
  absl::Status Add(const std::string& id, int64_t number,
                   const std::string& where) {
    const auto [at, added] = lines_.try_emplace(id, number);
    if (added) return absl::OkStatus();
    return Invalid(where,
                   absl::StrCat("\"_id\": ", Quoted(id), " again, first on ",
                                "line ", at->second),
                   "every id once", kHint);
  }
  bool Has(const std::string& id) const { return lines_.contains(id); }

 private:
  absl::flat_hash_map<std::string, int64_t> lines_;
};

// Which judgements there are, and on which line the first of a document that
// is missing stands.
struct Missing {
  int64_t count = 0;
  std::string where, document;
};

absl::Status ReadJudgements(const std::string& path, const Ids& documents,
                            const Ids& queries, Judgements& judgements,
                            Missing& missing) {
  return ForEachLine(path, [&](absl::string_view line, const std::string& where,
                               int64_t number) {
    if (number == 1 && absl::StartsWith(line, "query-id")) {
      return absl::OkStatus();
    }
    MOTET_ASSIGN_OR_RETURN(Judgement j, ParseJudgement(line, where));
    if (!queries.Has(j.query)) {
      return Invalid(where, absl::StrCat("query ", Quoted(j.query)),
                     "a query of queries.jsonl", kHint);
    }
    if (!documents.Has(j.document) && missing.count++ == 0) {
      missing.where = where;
      missing.document = j.document;
    }
    if (!judgements[j.query].emplace(j.document, j.score).second) {
      return Invalid(where,
                     absl::StrCat("query ", Quoted(j.query), " with document ",
                                  Quoted(j.document), " again"),
                     "every judgement once", kHint);
    }
    return absl::OkStatus();
  });
}

}  // namespace

std::string TextOf(const Document& document) {
  if (document.title.empty()) return document.text;
  return absl::StrCat(document.title, " ", document.text);
}

bool IsEmpty(const Document& document) {
  return Blank(document.title) && Blank(document.text);
}

absl::StatusOr<Document> ParseDocument(absl::string_view line,
                                       const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(const json object, ObjectOf(line, where));
  Document document;
  MOTET_ASSIGN_OR_RETURN(document.id, IdOf(object, where));
  MOTET_ASSIGN_OR_RETURN(document.title,
                         StringAt(object, "title", false, where));
  MOTET_ASSIGN_OR_RETURN(document.text, StringAt(object, "text", true, where));
  MOTET_RETURN_IF_ERROR(ReadMetadata(object, where, document.metadata));
  return document;
}

absl::StatusOr<Query> ParseQuery(absl::string_view line,
                                 const std::string& where) {
  MOTET_ASSIGN_OR_RETURN(const json object, ObjectOf(line, where));
  Query query;
  MOTET_ASSIGN_OR_RETURN(query.id, IdOf(object, where));
  MOTET_ASSIGN_OR_RETURN(query.text, StringAt(object, "text", true, where));
  return query;
}

absl::StatusOr<Judgement> ParseJudgement(absl::string_view line,
                                         const std::string& where) {
  const std::vector<std::string> columns =
      absl::StrSplit(absl::StripTrailingAsciiWhitespace(line), '\t');
  Judgement judgement;
  if (columns.size() != 3 || columns[0].empty() || columns[1].empty() ||
      !absl::SimpleAtoi(columns[2], &judgement.score)) {
    return Invalid(where, Quoted(line),
                   "query-id, corpus-id and a whole number, between tabs",
                   kHint);
  }
  judgement.query = columns[0];
  judgement.document = columns[1];
  return judgement;
}

absl::Status ForEachDocument(
    const std::string& path,
    const std::function<absl::Status(Document document,
                                     const std::string& where)>& take) {
  Ids ids;
  return ForEachLine(path, [&](absl::string_view line, const std::string& where,
                               int64_t number) {
    MOTET_ASSIGN_OR_RETURN(Document document, ParseDocument(line, where));
    MOTET_RETURN_IF_ERROR(ids.Add(document.id, number, where));
    return take(std::move(document), where);
  });
}

absl::StatusOr<BeirSet> ReadBeir(const std::string& folder,
                                 const BeirOptions& options) {
  BeirSet set;
  Ids documents, queries;
  int64_t number = 0;
  MOTET_RETURN_IF_ERROR(ForEachDocument(
      folder + "/corpus.jsonl",
      [&](Document document, const std::string& where) {
        set.empty_documents += IsEmpty(document);
        MOTET_RETURN_IF_ERROR(documents.Add(document.id, ++number, where));
        set.documents.push_back(std::move(document));
        return absl::OkStatus();
      }));
  struct Line {
    Query query;
    std::string where;
  };
  std::vector<Line> lines;
  MOTET_RETURN_IF_ERROR(ForEachLine(
      folder + "/queries.jsonl",
      [&](absl::string_view line, const std::string& where, int64_t at) {
        MOTET_ASSIGN_OR_RETURN(Query query, ParseQuery(line, where));
        MOTET_RETURN_IF_ERROR(queries.Add(query.id, at, where));
        lines.push_back({std::move(query), where});
        return absl::OkStatus();
      }));
  const std::string qrels =
      absl::StrCat(folder, "/qrels/", options.split, ".tsv");
  Missing missing;
  MOTET_RETURN_IF_ERROR(
      ReadJudgements(qrels, documents, queries, set.judgements, missing));
  if (missing.count > 0 && !options.allow_missing) {
    return Invalid(missing.where,
                   absl::StrCat("document ", Quoted(missing.document),
                                ", the first of ", missing.count),
                   "a document of corpus.jsonl",
                   "correct the files, or count them as never found with "
                   "--allow-missing");
  }
  set.missing_documents = missing.count;
  if (set.judgements.empty()) {
    return Invalid(qrels, "no judgement", "at least one");
  }
  for (Line& line : lines) {
    if (!set.judgements.contains(line.query.id)) continue;
    if (Blank(line.query.text)) {
      return Invalid(line.where, "a judged query without text",
                     "\"text\" that says something", kHint);
    }
    set.queries.push_back(std::move(line.query));
  }
  return set;
}

}  // namespace motet::retrieve
