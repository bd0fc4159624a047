// SPDX-License-Identifier: Apache-2.0
// OpenAI's JSON in and out: completions requests into GenerationRequests,
// events into responses and stream chunks, statuses into error bodies. No
// sockets here.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/policy.h"
#include "generation.pb.h"
#include "nlohmann/json.hpp"

namespace motet::coordinator {

struct CompletionCall {
  // One a prompt, n times each; in the order of their choices.
  std::vector<v1::GenerationRequest> requests;
  int choices = 1;  // n
  bool stream = false;
  bool include_usage = false;
};
// Unknown fields and wrong types are errors that name the field. `model`
// must be one of ours: NAME, or NAME@no-EXPERT for clients that can set
// only `model`.
absl::StatusOr<CompletionCall> ParseCompletion(absl::string_view body,
                                               const std::string& model);

// {"error": {"message", "type", "param", "code"}} and its HTTP status.
struct HttpError {
  int status;
  std::string body;
};
HttpError ToHttpError(const absl::Status& status);

// Collects one choice.
struct Choice {
  std::string text;
  nlohmann::json tokens = nlohmann::json::array();
  nlohmann::json token_logprobs = nlohmann::json::array();
  nlohmann::json top_logprobs = nlohmann::json::array();
  nlohmann::json text_offset = nlohmann::json::array();
  v1::GenerationEnd end;
  size_t characters = 0;  // of all text so far; what text_offset counts

  void Add(const v1::TokenResult& token, bool logprobs);
};
nlohmann::json ChoiceJson(const Choice& choice, int index, bool logprobs,
                          bool finished);
// The parts that every response and chunk begins with.
nlohmann::json Envelope(const std::string& id, const std::string& model,
                        int64_t created);
// Which experts answered: {"experts": […], "expert_set_sha256", "withheld",
// "lock_sha256"}; digests only of what has manifests and a lock.
nlohmann::json MotetJson(const Admission& admission,
                         const std::string& lock_sha256);

}  // namespace motet::coordinator
