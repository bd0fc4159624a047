// SPDX-License-Identifier: Apache-2.0
// The routes of `motet serve` over a small composition, without sockets.
#include "coordinator/http/front.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/compose/assemble/tiny.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;

struct Recorder final : HttpReply {
  void Reply(int s, const std::string&, const std::string& b) override {
    EXPECT_EQ(status, 0) << "two answers";
    status = s;
    body = b;
  }
  void StartStream() override { streaming = true; }
  bool Send(const std::string& data) override {
    EXPECT_TRUE(streaming);
    sent.push_back(data);
    return true;
  }
  bool Connected() override { return true; }
  int status = 0;
  bool streaming = false;
  std::string body;
  std::vector<std::string> sent;
};

class FrontTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = new assemble::TinyFederation;
    composition_ = federation_->Load(federation_->Lock()).release();
  }
  static void TearDownTestSuite() {
    delete composition_;
    delete federation_;
  }
  Recorder Ask(const std::string& method, const std::string& path,
               const std::string& body = "") {
    Recorder reply;
    front_.Handle({method, path, body}, reply);
    return reply;
  }
  Recorder Complete(json fields) {
    if (!fields.contains("model")) fields["model"] = "demo";
    if (!fields.contains("prompt")) fields["prompt"] = "The licensee";
    fields["temperature"] = 0;
    if (!fields.contains("max_tokens")) fields["max_tokens"] = 4;
    return Ask("POST", "/v1/completions", fields.dump());
  }
  static json Parsed(const Recorder& reply) {
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body);
  }

  static assemble::TinyFederation* federation_;
  static assemble::Composition* composition_;
  PolicyGate gate_{*composition_, {}};
  Engine engine_{*composition_, {}};
  Front front_{*composition_, gate_, engine_};
};
assemble::TinyFederation* FrontTest::federation_ = nullptr;
assemble::Composition* FrontTest::composition_ = nullptr;

TEST_F(FrontTest, CompletionSaysWhoAnswered) {
  const json all = Parsed(Complete({{"purpose", "advertising"}}));
  EXPECT_EQ(all["object"], "text_completion");
  ASSERT_EQ(all["choices"].size(), 1u);
  EXPECT_EQ(all["choices"][0]["index"], 0);
  EXPECT_EQ(all["motet"]["experts"].size(), 4u);
  EXPECT_EQ(all["motet"]["withheld"][0]["expert"],
            "legal.example/legal@1.0.0");
  EXPECT_EQ(all["motet"]["lock_sha256"], composition_->lock_sha256);
  const json less = Parsed(Complete(
      {{"model", "demo@no-legal"}, {"experts", {{"exclude", {"code"}}}}}));
  EXPECT_EQ(less["motet"]["experts"].size(), 3u);
  EXPECT_TRUE(less["motet"]["withheld"].empty());
  EXPECT_EQ(less["model"], "demo@no-legal");
}

TEST_F(FrontTest, UsageCountsEveryPromptOnce) {
  const auto usage = [&](json fields) {
    fields["max_tokens"] = 0;
    return Parsed(Complete(std::move(fields)))["usage"];
  };
  EXPECT_EQ(usage({{"prompt", {1, 2, 3}}})["prompt_tokens"], 3);
  EXPECT_EQ(usage({{"prompt", {1, 2, 3}}, {"n", 3}})["prompt_tokens"], 3);
  const json lists = {{1, 2, 3}, {4, 5, 6}, {4, 5, 6}};
  EXPECT_EQ(usage({{"prompt", lists}})["prompt_tokens"], 9);
  EXPECT_EQ(usage({{"prompt", lists}, {"n", 2}})["prompt_tokens"], 9);
  const json u = usage({{"prompt", lists}});
  EXPECT_EQ(u["completion_tokens"], 0);
  EXPECT_EQ(u["total_tokens"], 9);
}

TEST_F(FrontTest, StreamJoinsToTheWholeAnswer) {
  const json fields = {{"prompt", "a \u20ac sign"}, {"echo", true},
                       {"logprobs", 0}};
  const json whole = Parsed(Complete(fields));
  json streamed = fields;
  streamed["stream"] = true;
  streamed["stream_options"] = {{"include_usage", true}};
  const Recorder reply = Complete(streamed);
  EXPECT_EQ(reply.status, 0);
  ASSERT_GE(reply.sent.size(), 3u);
  EXPECT_EQ(reply.sent.back(), "[DONE]");
  const json last = json::parse(reply.sent[reply.sent.size() - 2]);
  EXPECT_EQ(last["usage"], whole["usage"]);
  EXPECT_TRUE(last["choices"].empty());
  std::string text;
  json finish, logprobs = json::array(), offsets = json::array();
  for (size_t i = 0; i + 2 < reply.sent.size(); ++i) {
    const json chunk = json::parse(reply.sent[i]);
    ASSERT_EQ(chunk["choices"].size(), 1u);
    const json& choice = chunk["choices"][0];
    text += choice["text"].get<std::string>();
    finish = choice["finish_reason"];
    EXPECT_EQ(finish.is_null(), i + 3 < reply.sent.size());
    for (const json& p : choice["logprobs"]["token_logprobs"]) {
      logprobs.push_back(p);
    }
    for (const json& o : choice["logprobs"]["text_offset"]) {
      offsets.push_back(o);
    }
  }
  const json& choice = whole["choices"][0];
  EXPECT_EQ(text, choice["text"]);
  EXPECT_EQ(text.substr(0, 10), "a \u20ac sign");
  EXPECT_EQ(finish, choice["finish_reason"]);
  EXPECT_EQ(logprobs, choice["logprobs"]["token_logprobs"]);
  EXPECT_EQ(offsets, choice["logprobs"]["text_offset"]);
}

TEST_F(FrontTest, ErrorsComeBeforeAnyToken) {
  const auto status = [&](const json& fields) {
    const Recorder reply = Complete(fields);
    EXPECT_FALSE(reply.streaming);
    EXPECT_TRUE(json::parse(reply.body).contains("error"));
    return reply.status;
  };
  for (const bool stream : {false, true}) {
    EXPECT_EQ(status({{"model", "gpt"}, {"stream", stream}}), 404);
    EXPECT_EQ(status({{"experts", {{"include", {"cod"}}}},
                      {"stream", stream}}), 404);
    EXPECT_EQ(status({{"experts", {{"include", {"legal"}}}},
                      {"purpose", "advertising"},
                      {"stream", stream}}), 403);
    EXPECT_EQ(status({{"max_tokens", 1000}, {"stream", stream}}), 400);
    // The second prompt is bad; the first is not begun.
    EXPECT_EQ(status({{"prompt", {{1}, {1000000}}}, {"stream", stream}}), 400);
  }
  EXPECT_EQ(Ask("POST", "/v1/completions", "{").status, 400);
}

TEST_F(FrontTest, OtherRoutes) {
  const json models = Parsed(Ask("GET", "/v1/models"));
  EXPECT_EQ(models["object"], "list");
  ASSERT_EQ(models["data"].size(), 1u);
  EXPECT_EQ(models["data"][0]["id"], "demo");
  EXPECT_EQ(models["data"][0]["experts"].size(), 4u);
  EXPECT_EQ(Ask("GET", "/livez").status, 200);
  EXPECT_EQ(Ask("GET", "/readyz").status, 200);
  EXPECT_EQ(Ask("GET", "/v1/completions").status, 404);
  EXPECT_EQ(Ask("GET", "/").status, 404);
}

}  // namespace
}  // namespace motet::coordinator
