// SPDX-License-Identifier: Apache-2.0
// The whole flow of real processes: two owners train, publish, a composition
// of each router answers over HTTP, and an excluded expert leaves no trace.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/harness/federation.h"
#include "tests/harness/http.h"

namespace motet::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using nlohmann::json;

constexpr char kBase[] = "demo/base@1.0.0";
constexpr char kCode[] = "code.example/code@1.0.0";
constexpr char kLaw[] = "law.example/law@1.0.0";

std::string Recipe(const std::string& router) {
  return "name = \"" + router +
         "\"\nmethod = \"flexolmo\"\nexperts = [\"code.example/code\", "
         "\"law.example/law\"]\n\n[router]\nkind = \"" +
         router + "\"\n";
}

// The members of an error in OpenAI's shape.
json ErrorOf(const HttpReply& reply) {
  const json body = json::parse(reply.body, nullptr, false);
  EXPECT_TRUE(body.is_object() && body.contains("error")) << reply.body;
  if (!body.is_object() || !body.contains("error")) return json::object();
  const json& error = body["error"];
  EXPECT_EQ(error.value("type", ""), "invalid_request_error");
  EXPECT_TRUE(error.contains("param") && error.contains("code")) << error;
  const std::string message = error.value("message", "");
  EXPECT_EQ(message[0], '[') << message;
  EXPECT_THAT(message, HasSubstr("] got "));
  EXPECT_THAT(message, HasSubstr(", want "));
  return error;
}

void AskEverything(const std::string& server) {
  const std::string path = "/v1/completions";
  const json plain = {{"model", "anchored"},
                      {"prompt", "the river"},
                      {"max_tokens", 8},
                      {"temperature", 0}};
  // Not streamed.
  HttpReply reply = HttpPost(server, path, plain.dump());
  ASSERT_EQ(reply.status, 200) << reply.body;
  const json whole = json::parse(reply.body);
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 8);
  EXPECT_EQ(whole["motet"]["experts"], json({kBase, kCode, kLaw}));
  const std::string text = whole["choices"][0]["text"];

  // Streamed: events, the same text, and the end as OpenAI writes it.
  json ask = plain;
  ask["stream"] = true;
  reply = HttpPost(server, path, ask.dump());
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_THAT(reply.head, HasSubstr("text/event-stream"));
  std::string streamed;
  bool done = false;
  size_t at = 0;
  while (at < reply.body.size()) {
    const size_t end = reply.body.find("\n\n", at);
    ASSERT_NE(end, std::string::npos) << reply.body;
    const std::string event = reply.body.substr(at, end - at);
    at = end + 2;
    ASSERT_EQ(event.rfind("data: ", 0), 0u) << event;
    EXPECT_FALSE(done) << "an event after [DONE]";
    if (event == "data: [DONE]") {
      done = true;
    } else {
      const std::string part =
          json::parse(event.substr(6))["choices"][0]["text"];
      streamed += part;
    }
  }
  EXPECT_TRUE(done);
  EXPECT_EQ(streamed, text);

  // Narrowed by the request, and by a licence.
  ask = plain;
  ask["experts"] = {{"exclude", {"code"}}};
  reply = HttpPost(server, path, ask.dump());
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(json::parse(reply.body)["motet"]["experts"], json({kBase, kLaw}));
  ask = plain;
  ask["purpose"] = "advertising";
  reply = HttpPost(server, path, ask.dump());
  ASSERT_EQ(reply.status, 200) << reply.body;
  const json narrowed = json::parse(reply.body)["motet"];
  EXPECT_EQ(narrowed["experts"], json({kBase, kCode}));
  ASSERT_EQ(narrowed["withheld"].size(), 1u);
  EXPECT_EQ(narrowed["withheld"][0]["expert"], kLaw);
  EXPECT_THAT(narrowed["withheld"][0]["reason"].get<std::string>(),
              HasSubstr("advertising"));

  // Errors.
  ask = plain;
  ask["experts"] = {{"exclude", {"nobody"}}};
  reply = HttpPost(server, path, ask.dump());
  EXPECT_EQ(reply.status, 404);
  json error = ErrorOf(reply);
  EXPECT_THAT(error.value("message", ""), HasSubstr("nobody"));
  EXPECT_EQ(error.value("param", ""), "experts");
  ask = plain;
  ask["model"] = "another";
  reply = HttpPost(server, path, ask.dump());
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(ErrorOf(reply).value("code", ""), "model_not_found");
  reply = HttpPost(server, path, R"({"model": )");
  EXPECT_EQ(reply.status, 400);
  ErrorOf(reply);
  ask = plain;
  ask["prompt"] = std::string(500, 'x');
  reply = HttpPost(server, path, ask.dump());
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(ErrorOf(reply).value("code", ""), "context_length_exceeded");

  reply = HttpGet(server, "/v1/models");
  ASSERT_EQ(reply.status, 200);
  EXPECT_EQ(json::parse(reply.body)["data"][0]["id"], "anchored");
  EXPECT_EQ(HttpPost(server, path, plain.dump()).status, 200);
}

TEST(Flow, TwoOwnersTrainAndOneCompositionAnswers) {
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  federation.Join("code");
  federation.Join("law", "forbidden_purposes = [\"advertising\"]\n");
  federation.StartNode("code");
  federation.StartNode("law");
  federation.Offer({});
  // Nodes may dial before or after the offer: each gets the plan.
  ASSERT_TRUE(WaitUntil("both owners' jobs", [&] {
    return federation.Json({"train", "status", "plan"})["jobs"].size() == 2;
  }));
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("plan"));
  EXPECT_THAT(federation.Packages(), UnorderedElementsAre(kBase, kCode, kLaw));

  for (const std::string router : {"anchored", "topk"}) {
    SCOPED_TRACE(router);
    const std::string recipe = federation.Path(router + ".toml");
    WriteText(recipe, Recipe(router));
    const json plan = federation.Json({"compose", "plan", recipe});
    EXPECT_EQ(plan["lock"]["experts"].size(), 2u);
    federation.MustMotet({"compose", "apply", recipe});
    const json proofs = federation.Json({"eval", "exclusion", router});
    ASSERT_EQ(proofs.size(), 2u);
    for (const json& proof : proofs) {
      EXPECT_EQ(proof["excluded_sha256"], proof["never_composed_sha256"]);
      EXPECT_EQ(proof["excluded_chunked_sha256"],
                proof["never_composed_chunked_sha256"]);
      EXPECT_EQ(proof["equal"], true);
    }
  }

  std::string lines;
  for (int i = 0; i < 40; ++i) {
    lines += json{{"text", "int f" + std::to_string(i) +
                               "() { return 0; }  // code of the owner"}}
                 .dump() +
             "\n";
  }
  WriteText(federation.Path("text.jsonl"), lines);
  const std::string domain = "code=" + federation.Path("text.jsonl");
  // Both compositions and an expert by itself: what they share is one row.
  const json matrix = federation.Json(
      {"eval", "matrix", "anchored", kCode, "topk", "--domain", domain,
       "--window", "32"});
  EXPECT_EQ(matrix["models"],
            json({"base", "base + code", "base + law", "anchored",
                  "anchored without code", "anchored without law", "topk",
                  "topk without code", "topk without law"}));
  EXPECT_EQ(matrix["owner_domains"], json({true}));
  // The base and one expert by top-2 are the pair.
  EXPECT_EQ(matrix["values"][7], matrix["values"][2]);
  const json routing = federation.Json(
      {"eval", "routing", "anchored", "--domain", domain, "--exclude", "law",
       "--window", "64"});
  EXPECT_EQ(routing["experts"], json({"base", "code", "law"}));
  for (const json& layer : routing["domains"][0]["layers"]) {
    EXPECT_EQ(layer["share"][2], 0.0);
    EXPECT_NEAR(layer["share"][0].get<double>() +
                    layer["share"][1].get<double>(),
                1, 1e-9);
  }

  const std::string port_file = federation.Path("logs/serve.port");
  Process server({Program("motet"), "serve", "anchored", "--address",
                  "127.0.0.1:0", "--port-file", port_file},
                 federation.Path("logs/serve.log"), federation.environment());
  WaitUntil("the server", [&] {
    return !ReadText(port_file).empty() || !server.Alive();
  });
  ASSERT_TRUE(server.Alive()) << ReadText(server.log());
  std::string address = ReadText(port_file);
  address.erase(address.find_last_not_of('\n') + 1);
  ASSERT_NO_FATAL_FAILURE(AskEverything(address));

  EXPECT_EQ(server.Stop(), 0) << ReadText(server.log());
  for (const std::string owner : {"code", "law"}) {
    EXPECT_EQ(federation.node(owner).Stop(), 0) << federation.NodeLog(owner);
  }
  EXPECT_EQ(federation.daemon().Stop(), 0);
  EXPECT_EQ(federation.registry().Stop(), 0);
}

}  // namespace
}  // namespace motet::testing
