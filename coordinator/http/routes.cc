// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/routes.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/http/openai.h"
#include "coordinator/stream_text.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;

constexpr char kJson[] = "application/json";
constexpr char kModels[] = "/v1/models";

json ModelJson(const assemble::Served& served, const json& more) {
  json experts = json::array();
  // Those that a query can leave out.
  for (const assemble::ServedExpert& expert : served.experts) {
    if (expert.always) continue;
    json entry{{"id", expert.id}};
    if (!served.lock_sha256.empty()) {
      entry["domain"] = expert.domain;
      entry["licence"] = expert.licence.spdx();
    }
    experts.push_back(std::move(entry));
  }
  json model{{"id", served.name},
             {"object", "model"},
             {"created", 0},
             {"owned_by", "motet"},
             {"experts", experts}};
  if (!served.lock_sha256.empty()) model["lock_sha256"] = served.lock_sha256;
  model.update(more);
  return model;
}

// The list, or one model by name.
void Models(const assemble::Served& served, const json& more,
            const std::string& path, HttpReply& reply) {
  const json model = ModelJson(served, more);
  if (path == kModels) {
    return ReplyJson(reply, {{"object", "list"}, {"data", {model}}});
  }
  const std::string name = path.substr(sizeof kModels);
  if (name == served.name) return ReplyJson(reply, model);
  Fail(reply, proto::Error(absl::StatusCode::kNotFound, "model",
                           absl::StrCat("\"", ValidUtf8(name), "\""),
                           absl::StrCat("\"", served.name, "\"")));
}

}  // namespace

void Fail(HttpReply& reply, const absl::Status& status) {
  const HttpError error = ToHttpError(status);
  reply.Reply(error.status, kJson, error.body);
}

void ReplyJson(HttpReply& reply, const json& body) {
  reply.Reply(200, kJson, body.dump());
}

void ServeCommonRoutes(const HttpRequest& request,
                       const assemble::Served& served, const json& more,
                       const std::string& own, HttpReply& reply) {
  if (request.method == "GET") {
    if (request.path == kModels ||
        request.path.starts_with(absl::StrCat(kModels, "/"))) {
      return Models(served, more, request.path, reply);
    }
    if (request.path == "/livez" || request.path == "/readyz") {
      return reply.Reply(200, "text/plain", "ok\n");
    }
  }
  Fail(reply,
       proto::Error(absl::StatusCode::kNotFound, "route",
                    absl::StrCat(request.method, " ", request.path),
                    absl::StrCat(own, ", GET /v1/models, /livez or /readyz")));
}

}  // namespace motet::coordinator
