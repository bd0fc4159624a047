// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/front.h"

#include <atomic>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "coordinator/http/openai.h"
#include "coordinator/stream_text.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

constexpr char kJson[] = "application/json";

void Fail(HttpReply& reply, const absl::Status& status) {
  const HttpError error = ToHttpError(status);
  reply.Reply(error.status, kJson, error.body);
}

// Unique in this process and across restarts; carries nothing about the
// request.
std::string NewId() {
  static const uint64_t process = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) ^ device();
  }();
  static std::atomic<uint64_t> count{0};
  return absl::StrFormat("cmpl-%016x%06x", process, count++);
}

}  // namespace

Front::Front(const assemble::ServedModel& model, const PolicyGate& gate,
             Engine& engine)
    : model_(model), gate_(gate), engine_(engine) {}

void Front::Models(const std::string& path, HttpReply& reply) const {
  nlohmann::json experts = nlohmann::json::array();
  // Those that a query can leave out.
  for (const assemble::ServedExpert& expert : model_.experts) {
    if (expert.always) continue;
    nlohmann::json entry{{"id", expert.id}};
    if (!model_.lock_sha256.empty()) {
      entry["domain"] = expert.domain;
      entry["licence"] = expert.licence.spdx();
    }
    experts.push_back(std::move(entry));
  }
  nlohmann::json model{{"id", model_.name},
                             {"object", "model"},
                             {"created", 0},
                             {"owned_by", "motet"},
                             {"context_length",
                              model_.config.max_positions},
                             {"experts", experts}};
  if (!model_.lock_sha256.empty()) model["lock_sha256"] = model_.lock_sha256;
  constexpr char kList[] = "/v1/models";
  if (path == kList) {
    return reply.Reply(
        200, kJson,
        nlohmann::json{{"object", "list"}, {"data", {model}}}.dump());
  }
  const std::string name = path.substr(sizeof kList);
  if (name == model_.name) {
    return reply.Reply(200, kJson, model.dump());
  }
  Fail(reply, proto::Error(absl::StatusCode::kNotFound, "model",
                           absl::StrCat("\"", ValidUtf8(name), "\""),
                           absl::StrCat("\"", model_.name, "\"")));
}

void Front::Completions(const HttpRequest& request, HttpReply& reply) {
  auto call = ParseCompletion(request.body, model_.name);
  if (!call.ok()) return Fail(reply, call.status());
  // Who may use what, and whether every prompt fits, before any token.
  const v1::GenerationRequest& first = call->requests.front();
  auto admission = gate_.Admit(first.experts(), first.purpose(),
                               first.tenant(), absl::Now());
  if (!admission.ok()) return Fail(reply, admission.status());
  for (const v1::GenerationRequest& one : call->requests) {
    if (auto ids = engine_.Prepare(one); !ids.ok()) {
      return Fail(reply, ids.status());
    }
  }
  const bool logprobs = first.logprobs() >= 0;
  const nlohmann::json envelope =
      Envelope(NewId(), first.model(), absl::ToUnixSeconds(absl::Now()));
  const nlohmann::json motet =
      MotetJson(*admission, model_.lock_sha256);
  nlohmann::json choices = nlohmann::json::array();
  uint64_t prompt_tokens = 0, completion_tokens = 0;
  bool streaming = false;
  for (size_t i = 0; i < call->requests.size(); ++i) {
    Choice choice;
    const absl::Status status = engine_.Generate(
        call->requests[i], *admission, [&](const v1::GenerationEvent& event) {
          if (event.has_end()) choice.end = event.end();
          if (event.has_token()) choice.Add(event.token(), logprobs);
          if (!call->stream) return reply.Connected();
          if (!streaming) {
            reply.StartStream();
            streaming = true;
          }
          nlohmann::json chunk = envelope;
          chunk["choices"] = {ChoiceJson(choice, static_cast<int>(i), logprobs,
                                         event.has_end())};
          chunk["motet"] = motet;
          if (call->include_usage) chunk["usage"] = nullptr;
          Choice next;  // has only what later chunks go on from
          next.end = choice.end;
          next.characters = choice.characters;
          choice = std::move(next);
          return reply.Send(chunk.dump());
        });
    if (!status.ok()) {
      if (status.code() == absl::StatusCode::kCancelled) return;
      if (!streaming) return Fail(reply, status);
      reply.Send(ToHttpError(status).body);
      return;
    }
    // Choices of one prompt share it.
    if (i % call->choices == 0) {
      prompt_tokens += choice.end.prompt_tokens();
    }
    completion_tokens += choice.end.completion_tokens();
    choices.push_back(
        ChoiceJson(choice, static_cast<int>(i), logprobs, true));
  }
  const nlohmann::json usage{
      {"prompt_tokens", prompt_tokens},
      {"completion_tokens", completion_tokens},
      {"total_tokens", prompt_tokens + completion_tokens}};
  if (streaming) {
    if (call->include_usage) {
      nlohmann::json chunk = envelope;
      chunk["choices"] = nlohmann::json::array();
      chunk["usage"] = usage;
      reply.Send(chunk.dump());
    }
    reply.Send("[DONE]");
    return;
  }
  nlohmann::json response = envelope;
  response["choices"] = choices;
  response["usage"] = usage;
  response["motet"] = motet;
  reply.Reply(200, kJson, response.dump());
}

void Front::Handle(const HttpRequest& request, HttpReply& reply) {
  const auto is = [&](const char* method, const char* path) {
    return request.method == method && request.path == path;
  };
  if (is("POST", "/v1/completions")) return Completions(request, reply);
  if (is("GET", "/v1/models") ||
      (request.method == "GET" && request.path.starts_with("/v1/models/"))) {
    return Models(request.path, reply);
  }
  if (is("GET", "/livez") || is("GET", "/readyz")) {
    return reply.Reply(200, "text/plain", "ok\n");
  }
  Fail(reply, proto::Error(
                  absl::StatusCode::kNotFound, "route",
                  absl::StrCat(request.method, " ", request.path),
                  "POST /v1/completions, GET /v1/models, /livez or /readyz"));
}

}  // namespace motet::coordinator
