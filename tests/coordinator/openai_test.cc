// SPDX-License-Identifier: Apache-2.0
// OpenAI's JSON: every field's good and bad values, and the answers' forms.
#include "coordinator/http/openai.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

absl::StatusOr<CompletionCall> Parse(const std::string& fields) {
  return ParseCompletion(
      absl::StrCat("{\"model\": \"demo\", \"prompt\": \"Hi\"",
                   fields.empty() ? "" : ", ", fields, "}"),
      "demo");
}
v1::GenerationRequest One(const std::string& fields) {
  const auto call = Parse(fields);
  EXPECT_TRUE(call.ok()) << fields << ": " << call.status();
  if (!call.ok()) return {};
  EXPECT_EQ(call->requests.size(), 1u) << fields;
  return call->requests.front();
}
std::string Message(const absl::StatusOr<CompletionCall>& call) {
  EXPECT_EQ(call.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(call.status().message());
}

TEST(ParseCompletionTest, Defaults) {
  const auto call = Parse("");
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_FALSE(call->stream);
  EXPECT_FALSE(call->include_usage);
  ASSERT_EQ(call->requests.size(), 1u);
  const v1::GenerationRequest& r = call->requests[0];
  EXPECT_EQ(r.model(), "demo");
  EXPECT_EQ(r.prompt(), "Hi");
  EXPECT_EQ(r.prompt_ids_size(), 0);
  EXPECT_EQ(r.max_tokens(), 16u);
  EXPECT_EQ(r.temperature(), 1);
  EXPECT_EQ(r.top_p(), 1);
  EXPECT_EQ(r.top_k(), 0u);
  EXPECT_EQ(r.min_p(), 0);
  EXPECT_EQ(r.logprobs(), -1);
  EXPECT_FALSE(r.echo());
  EXPECT_EQ(r.stop_size(), 0);
  EXPECT_TRUE(r.tenant().empty());
}

TEST(ParseCompletionTest, EveryField) {
  const v1::GenerationRequest r = One(
      R"("max_tokens": 0, "temperature": 0.5, "top_p": 0.25, "top_k": 3,
         "min_p": 0.125, "seed": 9007199254740992, "logprobs": 5,
         "echo": true, "stop": ["a", "b"], "purpose": "research",
         "user": "x", "n": 1, "best_of": 1, "suffix": "",
         "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
         "experts": {"include": ["code"], "exclude": ["legal", "x/y"],
                     "active": 3})");
  EXPECT_EQ(r.max_tokens(), 0u);
  EXPECT_EQ(r.temperature(), 0.5);
  EXPECT_EQ(r.top_p(), 0.25);
  EXPECT_EQ(r.top_k(), 3u);
  EXPECT_EQ(r.min_p(), 0.125);
  EXPECT_EQ(r.seed(), uint64_t{9007199254740992});
  EXPECT_EQ(r.logprobs(), 5);
  EXPECT_TRUE(r.echo());
  EXPECT_THAT(r.stop(), ElementsAre("a", "b"));
  EXPECT_EQ(r.purpose(), "research");
  EXPECT_THAT(r.experts().include(), ElementsAre("code"));
  EXPECT_THAT(r.experts().exclude(), ElementsAre("legal", "x/y"));
  EXPECT_EQ(r.experts().active(), 3u);
  EXPECT_TRUE(r.tenant().empty());  // never by the client
}

TEST(ParseCompletionTest, NullIsAsIfLeftOut) {
  const v1::GenerationRequest r = One(
      R"("max_tokens": null, "stop": null, "logprobs": null, "suffix": null,
         "experts": null, "stream": null, "n": null, "purpose": null)");
  EXPECT_EQ(r.max_tokens(), 16u);
  EXPECT_EQ(r.logprobs(), -1);
}

TEST(ParseCompletionTest, WrongValuesNameTheField) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"max_tokens", {"-1", "1.5", "\"3\"", "1048577", "true", "[]", "1e400"}},
      {"temperature", {"-0.1", "2.1", "\"1\"", "{}"}},
      {"top_p", {"-1", "1.01", "false"}},
      {"top_k", {"-1", "0.5", "1048577"}},
      {"min_p", {"-0.1", "1.1"}},
      {"seed", {"-1", "1.5", "18446744073709551615"}},
      {"n", {"0", "17", "1.0", "\"2\""}},
      {"best_of", {"2"}},
      {"logprobs", {"-1", "21", "true", "2.5"}},
      {"echo", {"1", "\"true\""}},
      {"stream", {"0", "\"yes\""}},
      {"stream_options",
       {"true", "[]", "{\"include_usage\": 1}", "{\"usage\": true}"}},
      {"stop", {"3", "[1]", "[\"a\",\"b\",\"c\",\"d\",\"e\"]", "{}"}},
      {"experts",
       {"[]", "\"code\"", "{\"only\": []}", "{\"include\": \"code\"}",
        "{\"exclude\": [1]}", "{\"active\": 0}", "{\"active\": 1.5}",
        "{\"active\": \"2\"}", "{\"active\": 1e9}", "{\"active\": 129}"}},
      {"purpose", {"3", "[\"a\"]"}},
      {"suffix", {"\"tail\""}},
      {"presence_penalty", {"0.5"}},
      {"frequency_penalty", {"-1"}},
      {"logit_bias", {"{\"5\": 1}"}},
  };
  for (const auto& [field, values] : cases) {
    for (const char* value : values) {
      const auto call = Parse(absl::StrCat("\"", field, "\": ", value));
      ASSERT_FALSE(call.ok()) << field << " " << value;
      // A number beyond doubles is malformed JSON to begin with.
      if (std::string(value) == "1e400") continue;
      EXPECT_THAT(Message(call), StartsWith(absl::StrCat("[", field)))
          << value;
    }
  }
  EXPECT_FALSE(
      Parse(absl::StrCat("\"purpose\": \"", std::string(101, 'x'), "\"")).ok());
  std::string names = "\"a\"";
  for (int i = 0; i < 64; ++i) names += ",\"a\"";
  EXPECT_FALSE(Parse("\"experts\": {\"exclude\": [" + names + "]}").ok());
}

absl::StatusOr<CompletionCall> Prompt(const std::string& prompt,
                                      const std::string& more = "") {
  return ParseCompletion(
      absl::StrCat("{\"model\": \"demo\", \"prompt\": ", prompt, more, "}"),
      "demo");
}

TEST(ParseCompletionTest, PromptForms) {
  const auto text = Prompt("\"\"");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->requests.size(), 1u);
  const auto ids = Prompt("[5, 0, 2147483647]");
  ASSERT_TRUE(ids.ok()) << ids.status();
  ASSERT_EQ(ids->requests.size(), 1u);
  EXPECT_THAT(ids->requests[0].prompt_ids(), ElementsAre(5, 0, 2147483647));
  const auto several = Prompt("[\"one\", \"two\"]");
  ASSERT_TRUE(several.ok()) << several.status();
  ASSERT_EQ(several->requests.size(), 2u);
  EXPECT_EQ(several->requests[1].prompt(), "two");
  const auto lists = Prompt("[[1, 2], [3]]");
  ASSERT_TRUE(lists.ok()) << lists.status();
  ASSERT_EQ(lists->requests.size(), 2u);
  EXPECT_THAT(lists->requests[0].prompt_ids(), ElementsAre(1, 2));
  EXPECT_THAT(lists->requests[1].prompt_ids(), ElementsAre(3));
}

TEST(ParseCompletionTest, PromptsThatAreNone) {
  for (const char* prompt :
       {"3", "{}", "[]", "[[]]", "[-1]", "[2147483648]", "[1.5]", "[1, \"a\"]",
        "[\"a\", 1]", "[[1], [\"a\"]]", "null", "true"}) {
    EXPECT_THAT(Message(Prompt(prompt)), StartsWith("[prompt]")) << prompt;
  }
  EXPECT_THAT(Message(ParseCompletion("{\"model\": \"demo\"}", "demo")),
              StartsWith("[prompt]"));
}

TEST(ParseCompletionTest, ChoicesOfAPromptDifferBySeed) {
  const auto call = Prompt("[\"one\", \"two\"]", ", \"n\": 3, \"seed\": 10");
  ASSERT_TRUE(call.ok()) << call.status();
  ASSERT_EQ(call->requests.size(), 6u);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(call->requests[i].prompt(), i < 3 ? "one" : "two");
    EXPECT_EQ(call->requests[i].seed(), 10u + i % 3);
  }
}

TEST(ParseCompletionTest, ManyChoicesAreBounded) {
  const auto prompts = [](int count) {
    return json(std::vector<std::string>(count, "a")).dump();
  };
  EXPECT_TRUE(Prompt(prompts(128)).ok());
  EXPECT_THAT(Message(Prompt(prompts(129))), StartsWith("[prompt]"));
  EXPECT_TRUE(Prompt(prompts(8), ", \"n\": 16").ok());
  EXPECT_THAT(Message(Prompt(prompts(9), ", \"n\": 16")), StartsWith("[n]"));
}

TEST(ParseCompletionTest, UnknownFieldNamesThoseThatExist) {
  EXPECT_THAT(Message(Parse("\"max_token\": 3")),
              AllOf(StartsWith("[body]"), HasSubstr("max_token"),
                    HasSubstr("max_tokens"), HasSubstr("experts")));
  // A client cannot say who it is.
  EXPECT_THAT(Message(Parse("\"tenant\": \"other\"")), StartsWith("[body]"));
}

TEST(ParseCompletionTest, BodiesThatAreNoRequest) {
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("3"),
        std::string("null"), std::string("{\"model\": \"\xFF\"}"),
        std::string("{\"model\": \"demo\", \"prompt\": \"a\"} x")}) {
    EXPECT_THAT(Message(ParseCompletion(body, "demo")), StartsWith("[body]"))
        << body;
  }
}

TEST(ParseCompletionTest, DeepNestingIsRefused) {
  for (const int depth : {20, 100000}) {
    const std::string deep =
        std::string(depth, '[') + std::string(depth, ']');
    EXPECT_THAT(Message(Prompt(deep)), StartsWith("[body]")) << depth;
    EXPECT_THAT(Message(Prompt(std::string(depth, '['))),
                StartsWith("[body]"));
  }
}

absl::StatusOr<CompletionCall> Model(const std::string& model) {
  return ParseCompletion(
      json{{"model", model}, {"prompt", "a"}}.dump(), "demo");
}

TEST(ParseCompletionTest, VirtualModelsExclude) {
  const auto call = Model("demo@no-code@no-legal.example/legal");
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->requests[0].model(), "demo@no-code@no-legal.example/legal");
  EXPECT_THAT(call->requests[0].experts().exclude(),
              ElementsAre("code", "legal.example/legal"));
  // Beside the field, both count.
  const auto both = ParseCompletion(
      R"({"model": "demo@no-code", "prompt": "a",
          "experts": {"exclude": ["legal"]}})", "demo");
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_THAT(both->requests[0].experts().exclude(),
              testing::UnorderedElementsAre("code", "legal"));
}

TEST(ParseCompletionTest, OtherModelsAreNotFound) {
  for (const char* name : {"gpt", "demo2", "", "Demo", "demo "}) {
    EXPECT_EQ(Model(name).status().code(), absl::StatusCode::kNotFound) << name;
  }
  EXPECT_THAT(Message(Model("demo@code")), StartsWith("[model]"));
  EXPECT_THAT(Message(Model("demo@")), StartsWith("[model]"));
  EXPECT_THAT(Message(ParseCompletion("{\"prompt\": \"a\"}", "demo")),
              StartsWith("[model]"));
}

TEST(ToHttpErrorTest, StatusesMap) {
  using C = absl::StatusCode;
  const std::tuple<C, int, const char*> cases[] = {
      {C::kInvalidArgument, 400, "invalid_request_error"},
      {C::kOutOfRange, 400, "invalid_request_error"},
      {C::kUnauthenticated, 401, "authentication_error"},
      {C::kPermissionDenied, 403, "permission_error"},
      {C::kNotFound, 404, "invalid_request_error"},
      {C::kResourceExhausted, 429, "rate_limit_error"},
      {C::kInternal, 500, "server_error"},
      {C::kUnknown, 500, "server_error"},
      {C::kUnimplemented, 501, "invalid_request_error"},
      {C::kUnavailable, 503, "server_error"},
  };
  for (const auto& [code, http, type] : cases) {
    const HttpError error = ToHttpError(absl::Status(code, "[top_p] got 3"));
    EXPECT_EQ(error.status, http);
    const json e = json::parse(error.body)["error"];
    EXPECT_EQ(e["type"], type);
    EXPECT_EQ(e["message"], "[top_p] got 3");
    EXPECT_EQ(e["param"], http < 500 ? json("top_p") : json(nullptr));
  }
}

TEST(ToHttpErrorTest, CodesThatClientsKnow) {
  const auto code = [](absl::Status status) {
    return json::parse(ToHttpError(status).body)["error"]["code"];
  };
  EXPECT_EQ(code(absl::NotFoundError("[model] got x")), "model_not_found");
  EXPECT_EQ(code(absl::NotFoundError("[experts] got x")), "not_found");
  EXPECT_EQ(code(absl::OutOfRangeError("[prompt] got x")),
            "context_length_exceeded");
  EXPECT_EQ(code(absl::InvalidArgumentError("no field")), nullptr);
  // Bytes that are no text must not break the answer.
  const json e = json::parse(
      ToHttpError(absl::InvalidArgumentError("[a\xFF] b")).body)["error"];
  EXPECT_EQ(e["message"], "[a\uFFFD] b");
  EXPECT_EQ(e["param"], "a\uFFFD");
}

v1::TokenResult Token(int id, const std::string& text, double logprob) {
  v1::TokenResult token;
  token.set_id(id);
  token.set_text(text);
  token.set_has_logprob(true);
  token.set_logprob(logprob);
  return token;
}

TEST(ChoiceTest, CollectsTextAndLogprobs) {
  Choice choice;
  v1::TokenResult first;
  first.set_id(1);
  first.set_text("H\u20ac");
  choice.Add(first, true);  // the prompt's first token has no probability
  v1::TokenResult second = Token(2, " you", -0.5);
  for (const double p : {-0.5, -1.0}) {
    v1::TokenAlternative* top = second.add_top();
    top->set_text(" you");
    top->set_logprob(p);
  }
  choice.Add(second, true);
  v1::TokenResult rest = Token(-1, "!", 0);  // held back text is no token
  choice.Add(rest, true);
  choice.end.set_finish_reason("length");
  EXPECT_EQ(choice.text, "H\u20ac you!");
  const json j = ChoiceJson(choice, 3, true, true);
  EXPECT_EQ(j["text"], "H\u20ac you!");
  EXPECT_EQ(j["index"], 3);
  EXPECT_EQ(j["finish_reason"], "length");
  EXPECT_EQ(j["logprobs"]["tokens"], json({"H\u20ac", " you"}));
  EXPECT_EQ(j["logprobs"]["token_logprobs"], json({nullptr, -0.5}));
  EXPECT_EQ(j["logprobs"]["text_offset"], json({0, 2}));
  EXPECT_EQ(j["logprobs"]["top_logprobs"][0], nullptr);
  EXPECT_EQ(j["logprobs"]["top_logprobs"][1], json({{" you", -0.5}}));
  const json open = ChoiceJson(choice, 0, false, false);
  EXPECT_EQ(open["finish_reason"], nullptr);
  EXPECT_EQ(open["logprobs"], nullptr);
}

}  // namespace
}  // namespace motet::coordinator
