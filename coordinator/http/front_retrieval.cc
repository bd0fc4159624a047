// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/front_retrieval.h"

#include <bit>
#include <cstdint>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/http/fields.h"
#include "coordinator/http/openai.h"
#include "coordinator/http/routes.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;
using Texts = google::protobuf::RepeatedPtrField<std::string>;

constexpr uint32_t kDefaultK = 10;

// A text, or a list of texts; more than a request may have are Retrieval's to
// refuse, as every front's.
Take TakeTexts(const char* field, Texts* texts) {
  return [=](const json& v) -> absl::Status {
    if (v.is_string()) {
      *texts->Add() = v.get<std::string>();
      return absl::OkStatus();
    }
    if (!v.is_array()) return Wrong(field, v, "a text or a list of texts");
    for (const json& one : v) {
      if (one.is_string()) {
        *texts->Add() = one.get<std::string>();
        continue;
      }
      const bool ids = one.is_number() || one.is_array();
      return Wrong(field, one,
                   ids ? "texts: token ids are the encoder's own business"
                       : "a text or a list of texts");
    }
    return absl::OkStatus();
  };
}

// Values are compared as text, as metadata are read (compose/retrieve/beir.h).
absl::Status TakeFilters(const json& v, v1::SearchRequest* request) {
  if (!v.is_object()) return Wrong("filters", v, "{\"field\": \"value\"}");
  for (const auto& [field, value] : v.items()) {
    if (!value.is_string() && !value.is_number() && !value.is_boolean()) {
      return Wrong(absl::StrCat("filters.", field), value,
                   "a text, a number, true or false");
    }
    v1::SearchFilter* filter = request->add_filters();
    filter->set_field(field);
    filter->set_value(value.is_string() ? value.get<std::string>()
                                        : value.dump());
  }
  return absl::OkStatus();
}

absl::Status Ignore(const json&) { return absl::OkStatus(); }

json VectorJson(const v1::Embedding& embedding, bool base64) {
  if (!base64) {
    json values = json::array();
    // As doubles, which hold every f32 and are read back as the same one.
    for (const float value : embedding.values()) values.push_back(value);
    return values;
  }
  std::string bytes;
  bytes.reserve(static_cast<size_t>(embedding.values_size()) * sizeof(float));
  for (const float value : embedding.values()) {
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<char>(bits >> shift & 0xFF));
    }
  }
  return absl::Base64Escape(bytes);
}

// Who answered, where that is told.
json ExpertJson(const std::string& expert) {
  return expert.empty() ? "base" : expert;
}

template <typename Reply>
void AddEnd(const Admitted<Reply>& answer, const std::string& model,
            json* body) {
  const Reply& reply = answer.reply;
  (*body)["model"] = model;
  (*body)["usage"] = {{"prompt_tokens", reply.tokens()},
                      {"total_tokens", reply.tokens()}};
  json motet = MotetJson(answer.admission, reply.end().lock_sha256());
  if (reply.cut() > 0) motet["cut"] = reply.cut();
  (*body)["motet"] = std::move(motet);
}

}  // namespace

absl::StatusOr<EmbedCall> ParseEmbeddings(absl::string_view body) {
  MOTET_ASSIGN_OR_RETURN(const json parsed,
                         ParseBody(body, "{\"model\": …, \"input\": …}"));
  EmbedCall call;
  v1::EmbedRequest& r = call.request;
  const Fields fields = {
      {"model", TakeText("model", kMaxModelBytes,
                         [&](const std::string& v) { r.set_model(v); })},
      {"input", TakeTexts("input", r.mutable_input())},
      {"input_type",
       TakeText("input_type", 100,
                [&](const std::string& v) { r.set_input_type(v); })},
      {"encoding_format",
       [&](const json& v) -> absl::Status {
         if (v != "float" && v != "base64") {
           return Wrong("encoding_format", v, "\"float\" or \"base64\"");
         }
         call.base64 = v == "base64";
         return absl::OkStatus();
       }},
      {"dimensions",
       [](const json& v) {
         return Wrong("dimensions", v,
                      "none: a shorter vector would be of no use with an "
                      "index");
       }},
      {"experts", TakeExperts(r.mutable_experts())},
      {"purpose", TakePurpose(r.mutable_purpose())},
      {"user", Ignore},
  };
  MOTET_RETURN_IF_ERROR(TakeFields(parsed, fields));
  return call;
}

absl::StatusOr<v1::SearchRequest> ParseSearch(absl::string_view body) {
  MOTET_ASSIGN_OR_RETURN(
      const json parsed,
      ParseBody(body, "{\"model\": …, \"index\": …, \"query\": …}"));
  v1::SearchRequest r;
  r.set_k(kDefaultK);
  const Fields fields = {
      {"model", TakeText("model", kMaxModelBytes,
                         [&](const std::string& v) { r.set_model(v); })},
      {"index", TakeText("index", kMaxModelBytes,
                         [&](const std::string& v) { r.set_index(v); })},
      {"query", TakeText("query", proto::kMaxTextBytes,
                         [&](const std::string& v) { r.add_queries(v); })},
      {"queries", TakeTexts("queries", r.mutable_queries())},
      {"k", TakeNumber("k", 1, proto::kMaxListPage, true,
                       [&](double v) { r.set_k(static_cast<uint32_t>(v)); })},
      {"mode",
       TakeText("mode", 100, [&](const std::string& v) { r.set_mode(v); })},
      {"filters", [&](const json& v) { return TakeFilters(v, &r); }},
      {"text", TakeFlag("text", [&](bool v) { r.set_text(v); })},
      {"experts", TakeExperts(r.mutable_experts())},
      {"purpose", TakePurpose(r.mutable_purpose())},
      {"user", Ignore},
  };
  MOTET_RETURN_IF_ERROR(TakeFields(parsed, fields));
  const auto given = [&](const char* field) {
    const auto found = parsed.find(field);
    return found != parsed.end() && !found->is_null();
  };
  if (given("query") == given("queries")) {
    return proto::Invalid("query", given("query") ? "queries as well" : "none",
                          "either query, a text, or queries, a list");
  }
  return r;
}

RetrievalFront::RetrievalFront(const Retrieval& retrieval)
    : retrieval_(retrieval) {}

void RetrievalFront::Embeddings(const HttpRequest& request,
                                HttpReply& reply) const {
  const auto call = ParseEmbeddings(request.body);
  if (!call.ok()) return Fail(reply, call.status());
  const auto answer =
      retrieval_.Embed(call->request, [&] { return reply.Connected(); });
  if (absl::IsCancelled(answer.status())) return;
  if (!answer.ok()) return Fail(reply, answer.status());
  json data = json::array();
  for (const v1::Embedding& embedding : answer->reply.embeddings()) {
    json entry = {{"object", "embedding"},
                  {"index", data.size()},
                  {"embedding", VectorJson(embedding, call->base64)}};
    if (retrieval_.tells_experts()) {
      entry["expert"] = ExpertJson(embedding.expert());
    }
    data.push_back(std::move(entry));
  }
  json body = {{"object", "list"}, {"data", std::move(data)}};
  AddEnd(*answer, call->request.model(), &body);
  ReplyJson(reply, body);
}

void RetrievalFront::Search(const HttpRequest& request,
                            HttpReply& reply) const {
  const auto call = ParseSearch(request.body);
  if (!call.ok()) return Fail(reply, call.status());
  const auto answer =
      retrieval_.Search(*call, [&] { return reply.Connected(); });
  if (absl::IsCancelled(answer.status())) return;
  if (!answer.ok()) return Fail(reply, answer.status());
  const bool encoded = call->mode() != "bm25";
  json results = json::array();
  for (const v1::QueryResult& result : answer->reply.results()) {
    json documents = json::array();
    for (const v1::FoundDocument& found : result.documents()) {
      json document = {
          {"id", found.id()},
          {"score", found.score()},
          {"metadata", json::parse(found.metadata(), nullptr, false)}};
      if (call->text()) {
        document["title"] = found.title();
        document["text"] = found.text();
      }
      documents.push_back(std::move(document));
    }
    json entry = {{"documents", std::move(documents)}};
    if (encoded && retrieval_.tells_experts()) {
      entry["expert"] = ExpertJson(result.expert());
    }
    results.push_back(std::move(entry));
  }
  json body = {{"object", "search"}, {"results", std::move(results)}};
  AddEnd(*answer, call->model(), &body);
  ReplyJson(reply, body);
}

void RetrievalFront::Handle(const HttpRequest& request,
                            HttpReply& reply) const {
  if (request.method == "POST") {
    if (request.path == "/v1/embeddings") return Embeddings(request, reply);
    if (request.path == "/v1/search") return Search(request, reply);
  }
  json indexes = json::array();
  for (const ServedIndex& served : retrieval_.indexes()) {
    indexes.push_back(
        {{"name", served.name}, {"documents", served.index->documents()}});
  }
  ServeCommonRoutes(request, retrieval_.served(),
                    {{"context_length", retrieval_.base().max_tokens()},
                     {"dimensions", retrieval_.base().width()},
                     {"indexes", indexes}},
                    "POST /v1/embeddings or /v1/search", reply);
}

}  // namespace motet::coordinator
