// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/front.h"

#include <atomic>
#include <random>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "coordinator/http/openai.h"
#include "coordinator/http/routes.h"

namespace motet::coordinator {
namespace {

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
  ReplyJson(reply, response);
}

void Front::Handle(const HttpRequest& request, HttpReply& reply) {
  if (request.method == "POST" && request.path == "/v1/completions") {
    return Completions(request, reply);
  }
  ServeCommonRoutes(request, model_,
                    {{"context_length", model_.config.max_positions}},
                    "POST /v1/completions", reply);
}

}  // namespace motet::coordinator
