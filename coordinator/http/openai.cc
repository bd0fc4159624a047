// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/openai.h"

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "coordinator/http/fields.h"
#include "coordinator/stream_text.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;

constexpr int kMaxChoices = 128;

absl::Status Prompts(const json& value,
                     std::vector<v1::GenerationRequest>* out) {
  const auto is_ids = [](const json& v) {
    return v.is_array() && !v.empty() &&
           std::all_of(v.begin(), v.end(), [](const json& t) {
             return t.is_number_integer() && t.get<double>() >= 0 &&
                    t.get<double>() < 2147483648.0;
           });
  };
  const auto add_ids = [&](const json& v) {
    v1::GenerationRequest request;
    for (const json& t : v) request.add_prompt_ids(t.get<int32_t>());
    out->push_back(std::move(request));
  };
  const auto add_text = [&](const json& v) {
    v1::GenerationRequest request;
    request.set_prompt(v.get<std::string>());
    out->push_back(std::move(request));
  };
  if (value.is_string()) {
    add_text(value);
    return absl::OkStatus();
  }
  if (is_ids(value)) {
    add_ids(value);
    return absl::OkStatus();
  }
  if (value.is_array() && !value.empty() && value.size() <= kMaxChoices) {
    for (const json& v : value) {
      if (v.is_string()) {
        add_text(v);
      } else if (is_ids(v)) {
        add_ids(v);
      } else {
        return Wrong("prompt", v, "text or a list of token ids");
      }
    }
    return absl::OkStatus();
  }
  return Wrong("prompt", value,
               "text, token ids, or a list of at most 128 of these");
}

absl::Status Stops(const json& value, v1::GenerationRequest* request) {
  if (value.is_string()) {
    request->add_stop(value.get<std::string>());
    return absl::OkStatus();
  }
  if (value.is_array() && value.size() <= 4 &&
      std::all_of(value.begin(), value.end(),
                  [](const json& v) { return v.is_string(); })) {
    for (const json& v : value) request->add_stop(v.get<std::string>());
    return absl::OkStatus();
  }
  return Wrong("stop", value, "a text or a list of at most 4 texts");
}

}  // namespace

absl::StatusOr<CompletionCall> ParseCompletion(absl::string_view body,
                                               const std::string& model) {
  MOTET_ASSIGN_OR_RETURN(const json j,
                         ParseBody(body, "{\"model\": …, \"prompt\": …}"));
  CompletionCall call;
  v1::GenerationRequest common;
  common.set_max_tokens(16);
  common.set_temperature(1);
  common.set_top_p(1);
  common.set_logprobs(-1);
  double n = 1;
  // One table of fields: name and what to do with its value.
  const auto number = TakeNumber;
  const auto flag = [](const char* field, bool* target) {
    return TakeFlag(field, [target](bool v) { *target = v; });
  };
  const auto neutral = TakeNeutral;
  bool echo = false;
  const Fields fields = {
      {"model", TakeText("model", kMaxModelBytes,
                         [&](const std::string& v) { common.set_model(v); })},
      {"prompt", [&](const json& v) { return Prompts(v, &call.requests); }},
      {"max_tokens", number("max_tokens", 0, 1 << 20, true,
                            [&](double v) { common.set_max_tokens(v); })},
      {"temperature", number("temperature", 0, 2, false,
                             [&](double v) { common.set_temperature(v); })},
      {"top_p", number("top_p", 0, 1, false,
                       [&](double v) { common.set_top_p(v); })},
      {"top_k", number("top_k", 0, 1 << 20, true,
                       [&](double v) { common.set_top_k(v); })},
      {"min_p", number("min_p", 0, 1, false,
                       [&](double v) { common.set_min_p(v); })},
      {"seed", number("seed", 0, 9007199254740992.0, true,
                      [&](double v) { common.set_seed(v); })},
      {"n", number("n", 1, 16, true, [&](double v) { n = v; })},
      {"best_of", neutral("best_of", 1)},
      {"logprobs", number("logprobs", 0, 20, true,
                          [&](double v) { common.set_logprobs(v); })},
      {"echo", flag("echo", &echo)},
      {"stream", flag("stream", &call.stream)},
      {"stream_options",
       [&](const json& v) -> absl::Status {
         if (!v.is_object()) return Wrong("stream_options", v, "an object");
         for (const auto& [key, option] : v.items()) {
           if (key != "include_usage" || !option.is_boolean()) {
             return Wrong("stream_options", v,
                          "{\"include_usage\": true or false}");
           }
           call.include_usage = option.get<bool>();
         }
         return absl::OkStatus();
       }},
      {"stop", [&](const json& v) { return Stops(v, &common); }},
      {"experts", TakeExperts(common.mutable_experts())},
      {"purpose", TakePurpose(common.mutable_purpose())},
      {"user", [](const json&) { return absl::OkStatus(); }},
      {"suffix", neutral("suffix", "")},
      {"presence_penalty", neutral("presence_penalty", 0)},
      {"frequency_penalty", neutral("frequency_penalty", 0)},
      {"logit_bias", neutral("logit_bias", json::object())},
  };
  MOTET_RETURN_IF_ERROR(TakeFields(j, fields));
  MOTET_RETURN_IF_ERROR(
      SelectByName(common.model(), model, common.mutable_experts()));
  if (call.requests.empty()) {
    return proto::Invalid("prompt", "none", "text or token ids");
  }
  if (call.requests.size() * n > kMaxChoices) {
    return proto::Invalid("n", absl::StrCat(call.requests.size() * n,
                                            " choices"),
                          absl::StrCat("at most ", kMaxChoices));
  }
  common.set_echo(echo);
  call.choices = static_cast<int>(n);
  std::vector<v1::GenerationRequest> expanded;
  for (const v1::GenerationRequest& prompt : call.requests) {
    for (int i = 0; i < n; ++i) {
      v1::GenerationRequest request = common;
      request.set_prompt(prompt.prompt());
      *request.mutable_prompt_ids() = prompt.prompt_ids();
      // Choices of one prompt differ by their draw alone.
      request.set_seed(common.seed() + i);
      expanded.push_back(std::move(request));
    }
  }
  call.requests = std::move(expanded);
  return call;
}

HttpError ToHttpError(const absl::Status& status) {
  int code = 500;
  const char* type = "server_error";
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      code = 400;
      type = "invalid_request_error";
      break;
    case absl::StatusCode::kNotFound:
      code = 404;
      type = "invalid_request_error";
      break;
    case absl::StatusCode::kPermissionDenied:
      code = 403;
      type = "permission_error";
      break;
    case absl::StatusCode::kUnauthenticated:
      code = 401;
      type = "authentication_error";
      break;
    case absl::StatusCode::kResourceExhausted:
      code = 429;
      type = "rate_limit_error";
      break;
    case absl::StatusCode::kUnavailable:
      code = 503;
      break;
    case absl::StatusCode::kUnimplemented:
      code = 501;
      type = "invalid_request_error";
      break;
    default:
      break;
  }
  const std::string message = ValidUtf8(status.message());
  // "[where]" names the field.
  json param = nullptr;
  const size_t end = message.find(']');
  if (code < 500 && !message.empty() && message[0] == '[' &&
      end != std::string::npos) {
    param = message.substr(1, end - 1);
  }
  json reason = nullptr;
  if (code == 404) reason = param == "model" ? "model_not_found" : "not_found";
  if (status.code() == absl::StatusCode::kOutOfRange) {
    reason = "context_length_exceeded";
  }
  return {code, json{{"error",
                      {{"message", message},
                       {"type", type},
                       {"param", param},
                       {"code", reason}}}}
                    .dump()};
}

void Choice::Add(const v1::TokenResult& token, bool logprobs) {
  const size_t offset = characters;
  characters += std::count_if(
      token.text().begin(), token.text().end(),
      [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  text += token.text();
  if (!logprobs || token.id() < 0) return;
  const std::string shown = ValidUtf8(token.text());
  tokens.push_back(shown);
  text_offset.push_back(offset);
  if (!token.has_logprob()) {
    token_logprobs.push_back(nullptr);
    top_logprobs.push_back(nullptr);
    return;
  }
  token_logprobs.push_back(token.logprob());
  json top = json::object();
  for (const v1::TokenAlternative& other : token.top()) {
    // Distinct tokens may read alike; the likelier one keeps the name.
    if (!top.contains(other.text())) top[other.text()] = other.logprob();
  }
  top_logprobs.push_back(std::move(top));
}

json ChoiceJson(const Choice& choice, int index, bool logprobs,
                bool finished) {
  json j{{"text", ValidUtf8(choice.text)},
         {"index", index},
         {"logprobs", nullptr},
         {"finish_reason", nullptr}};
  if (finished) j["finish_reason"] = choice.end.finish_reason();
  if (logprobs) {
    j["logprobs"] = {{"tokens", choice.tokens},
                     {"token_logprobs", choice.token_logprobs},
                     {"top_logprobs", choice.top_logprobs},
                     {"text_offset", choice.text_offset}};
  }
  return j;
}

json Envelope(const std::string& id, const std::string& model,
              int64_t created) {
  return {{"id", id},
          {"object", "text_completion"},
          {"created", created},
          {"model", model}};
}

json MotetJson(const Admission& admission, const std::string& lock_sha256) {
  json withheld = json::array();
  for (const Withheld& w : admission.withheld()) {
    withheld.push_back({{"expert", w.id}, {"reason", w.reason}});
  }
  json j{{"experts", admission.experts()}, {"withheld", withheld}};
  if (!admission.set_sha256().empty()) {
    j["expert_set_sha256"] = admission.set_sha256();
  }
  if (!lock_sha256.empty()) j["lock_sha256"] = lock_sha256;
  return j;
}

}  // namespace motet::coordinator
