// SPDX-License-Identifier: Apache-2.0
#include "coordinator/retrieval.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "compose/retrieve/search.h"
#include "coordinator/http/fields.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

using proto::Invalid;

using Texts = google::protobuf::RepeatedPtrField<std::string>;

absl::Status CheckTexts(const std::string& field, const Texts& texts) {
  if (texts.empty()) return Invalid(field, "none", "a text");
  if (texts.size() > proto::kMaxRequestTexts) {
    return Invalid(field, absl::StrCat(texts.size(), " texts"),
                   absl::StrCat("at most ", proto::kMaxRequestTexts),
                   "send them in several requests");
  }
  for (int i = 0; i < texts.size(); ++i) {
    const std::string& text = texts[i];
    if (absl::StripAsciiWhitespace(text).empty()) {
      return Invalid(field, absl::StrCat("text ", i, ", which is blank"),
                     "text");
    }
    if (static_cast<int64_t>(text.size()) > proto::kMaxTextBytes) {
      return Invalid(field,
                     absl::StrCat("text ", i, " of ", text.size(), " bytes"),
                     absl::StrCat("at most ", proto::kMaxTextBytes));
    }
  }
  return absl::OkStatus();
}

// Searches, put together with those of other requests.
class Together : public retrieve::DenseSearch {
 public:
  Together(RetrievalEngine& engine, const Admission& admission,
           const StillWanted& wanted)
      : engine_(engine), admission_(admission), wanted_(wanted) {}
  absl::StatusOr<retrieve::SearchResult> Find(
      const retrieve::Index& index, std::span<const std::string> queries,
      int64_t depth, const std::vector<int64_t>* only) const override {
    MOTET_ASSIGN_OR_RETURN(
        RetrievalEngine::Answer answer,
        engine_.Run({queries.begin(), queries.end()},
                    RetrievalEngine::Kind::kQuery, admission_,
                    {&index, depth, only}, wanted_));
    retrieve::SearchResult result;
    result.rankings = std::move(answer.rankings);
    result.experts = std::move(answer.experts);
    result.cut = answer.cut;
    result.tokens = answer.tokens;
    return result;
  }
  absl::StatusOr<std::vector<retrieve::Ranking>> FindWords(
      const retrieve::Index& index, std::span<const std::string> queries,
      int64_t depth, const std::vector<int64_t>* only) const override {
    MOTET_ASSIGN_OR_RETURN(
        RetrievalEngine::Answer answer,
        engine_.Run({queries.begin(), queries.end()},
                    RetrievalEngine::Kind::kWords, admission_,
                    {&index, depth, only}, wanted_));
    return std::move(answer.rankings);
  }

 private:
  RetrievalEngine& engine_;
  const Admission& admission_;
  const StillWanted& wanted_;
};

void FillEnd(const Admission& admission, const std::string& lock_sha256,
             v1::RetrievalEnd* end) {
  for (const std::string& id : admission.experts()) end->add_experts(id);
  end->set_expert_set_sha256(admission.set_sha256());
  end->set_lock_sha256(lock_sha256);
}

// Documents of the rankings, within the bytes that a reply may hold.
absl::Status FillDocuments(const retrieve::Index& index,
                           const retrieve::SearchResult& found, bool text,
                           v1::SearchReply* reply) {
  int64_t bytes = 0;
  for (const retrieve::Ranking& ranking : found.rankings) {
    v1::QueryResult* result = reply->add_results();
    for (const retrieve::Hit& hit : ranking) {
      MOTET_ASSIGN_OR_RETURN(retrieve::Document document, index.Get(hit.row));
      v1::FoundDocument* out = result->add_documents();
      out->set_score(hit.score);
      if (text) {
        out->set_title(std::move(document.title));
        out->set_text(std::move(document.text));
      }
      out->set_id(std::move(document.id));
      nlohmann::json metadata = nlohmann::json::object();
      for (const auto& [field, value] : document.metadata) {
        metadata[field] = value;
      }
      out->set_metadata(JsonText(metadata));
      bytes += static_cast<int64_t>(out->title().size() + out->text().size() +
                                    out->id().size() + out->metadata().size());
      if (bytes > proto::kMaxRpcMessageBytes * 3 / 4) {
        return proto::Error(
            absl::StatusCode::kInvalidArgument, "k",
            absl::StrCat("documents of more than ", bytes >> 20, " MiB in all"),
            absl::StrCat("at most ", proto::kMaxRpcMessageBytes * 3 / 4 >> 20),
            "ask for fewer, or without text");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServedIndex> OpenServedIndex(const std::string& argument,
                                            const retrieve::TextEncoder& base) {
  const size_t equals = argument.find('=');
  ServedIndex served;
  std::string folder = argument;
  if (equals != std::string::npos) {
    served.name = argument.substr(0, equals);
    folder = argument.substr(equals + 1);
  } else {
    // "docs/" is called docs.
    std::filesystem::path path(folder);
    if (path.filename().empty()) path = path.parent_path();
    served.name = path.filename().string();
  }
  if (served.name.empty() || folder.empty()) {
    return Invalid("--index", absl::StrCat("\"", argument, "\""),
                   "NAME=FOLDER");
  }
  MOTET_ASSIGN_OR_RETURN(served.index, retrieve::Index::Open(folder));
  MOTET_RETURN_IF_ERROR(served.index->CheckBase(base));
  return served;
}

Retrieval::Retrieval(const assemble::Served& served,
                     const retrieve::TextEncoder& base, const PolicyGate& gate,
                     RetrievalEngine& engine, const RetrievalOptions& options)
    : served_(served),
      base_(base),
      gate_(gate),
      engine_(engine),
      options_(options) {}

absl::StatusOr<std::unique_ptr<Retrieval>> Retrieval::Create(
    const assemble::Served& served, const retrieve::TextEncoder& base,
    const PolicyGate& gate, RetrievalEngine& engine,
    std::vector<ServedIndex> indexes, const RetrievalOptions& options) {
  for (size_t i = 0; i < indexes.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (indexes[i].name != indexes[j].name) continue;
      return Invalid("--index",
                     absl::StrCat("two called \"", indexes[i].name, "\""),
                     "a name for each", "use NAME=FOLDER");
    }
  }
  std::unique_ptr<Retrieval> retrieval(
      new Retrieval(served, base, gate, engine, options));
  retrieval->indexes_ = std::move(indexes);
  return retrieval;
}

template <typename Request>
absl::StatusOr<Admission> Retrieval::Admit(const Request& request) const {
  v1::ExpertSelection selection = request.experts();
  MOTET_RETURN_IF_ERROR(
      SelectByName(request.model(), served_.name, &selection));
  return gate_.Admit(selection, request.purpose(), request.tenant(),
                     absl::Now());
}

absl::StatusOr<const retrieve::Index*> Retrieval::IndexOf(
    const std::string& name) const {
  std::vector<std::string> names;
  for (const ServedIndex& served : indexes_) {
    if (served.name == name || (name.empty() && indexes_.size() == 1)) {
      return served.index.get();
    }
    names.push_back(served.name);
  }
  return proto::Error(
      names.empty() || !name.empty() ? absl::StatusCode::kNotFound
                                     : absl::StatusCode::kInvalidArgument,
      "index", name.empty() ? "none" : absl::StrCat("\"", name, "\""),
      names.empty() ? "none: this server has no index"
                    : absl::StrCat("one of ", absl::StrJoin(names, ", ")),
      names.empty() ? "start it with --index NAME=FOLDER" : "name one");
}

absl::StatusOr<Admitted<v1::EmbedReply>> Retrieval::Embed(
    const v1::EmbedRequest& request, const StillWanted& wanted) const {
  const std::string& type = request.input_type();
  if (!type.empty() && type != "query" && type != "document") {
    return Invalid("input_type", absl::StrCat("\"", type, "\""),
                   "query or document");
  }
  MOTET_RETURN_IF_ERROR(CheckTexts("input", request.input()));
  MOTET_ASSIGN_OR_RETURN(const Admission admission, Admit(request));
  const bool document = type == "document";
  MOTET_ASSIGN_OR_RETURN(
      const RetrievalEngine::Answer answer,
      engine_.Run({request.input().begin(), request.input().end()},
                  document ? RetrievalEngine::Kind::kDocument
                           : RetrievalEngine::Kind::kQuery,
                  admission, {}, wanted));
  v1::EmbedReply reply;
  const auto width = static_cast<size_t>(base_.width());
  for (size_t i = 0; i < answer.experts.size(); ++i) {
    v1::Embedding* embedding = reply.add_embeddings();
    const float* values = answer.values.data() + i * width;
    embedding->mutable_values()->Add(values, values + width);
    if (options_.tell_experts) embedding->set_expert(answer.experts[i]);
  }
  reply.set_tokens(static_cast<uint64_t>(answer.tokens));
  reply.set_cut(static_cast<uint64_t>(answer.cut));
  FillEnd(admission, served_.lock_sha256, reply.mutable_end());
  return Admitted<v1::EmbedReply>{std::move(reply), admission};
}

absl::StatusOr<Admitted<v1::SearchReply>> Retrieval::Search(
    const v1::SearchRequest& request, const StillWanted& wanted) const {
  retrieve::SearchRequest asked;
  if (!request.mode().empty()) {
    MOTET_ASSIGN_OR_RETURN(asked.mode,
                           retrieve::ParseSearchMode(request.mode()));
  }
  MOTET_RETURN_IF_ERROR(CheckTexts("queries", request.queries()));
  asked.queries.assign(request.queries().begin(), request.queries().end());
  asked.k = request.k();
  if (request.k() > 0 &&
      asked.k * request.queries_size() > proto::kMaxFoundDocuments) {
    return Invalid(
        "k",
        absl::StrCat(asked.k, " documents for each of ", request.queries_size(),
                     " queries"),
        absl::StrCat("at most ", proto::kMaxFoundDocuments, " in all"),
        "ask for fewer");
  }
  for (const v1::SearchFilter& filter : request.filters()) {
    asked.filters.emplace_back(filter.field(), filter.value());
  }
  MOTET_ASSIGN_OR_RETURN(const Admission admission, Admit(request));
  MOTET_ASSIGN_OR_RETURN(const retrieve::Index* index,
                         IndexOf(request.index()));
  const Together together(engine_, admission, wanted);
  MOTET_ASSIGN_OR_RETURN(retrieve::SearchResult found,
                         retrieve::Search(*index, &together, asked));
  v1::SearchReply reply;
  MOTET_RETURN_IF_ERROR(FillDocuments(*index, found, request.text(), &reply));
  // BM25 asks no expert.
  for (size_t i = 0; options_.tell_experts && i < found.experts.size(); ++i) {
    reply.mutable_results(static_cast<int>(i))->set_expert(found.experts[i]);
  }
  reply.set_tokens(static_cast<uint64_t>(found.tokens));
  reply.set_cut(static_cast<uint64_t>(found.cut));
  FillEnd(admission, served_.lock_sha256, reply.mutable_end());
  return Admitted<v1::SearchReply>{std::move(reply), admission};
}

}  // namespace motet::coordinator
