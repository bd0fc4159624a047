// SPDX-License-Identifier: Apache-2.0
// Whole models that answer together, as a user meets them: over HTTP, on the
// command line and in multiple choice, which all say the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/harness/federation.h"
#include "tests/harness/http.h"

namespace motet::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kBase[] = "demo/base@1.0.0";
constexpr char kCode[] = "code.example/tuned@1.0.0";
constexpr char kLaw[] = "law.example/tuned@1.0.0";

class EnsembleE2e : public ::testing::Test {
 protected:
  void SetUp() override {
    federation_.Start();
    float factor = -3;
    for (const char* owner : {"code", "law"}) {
      federation_.Join(owner);
      federation_.ImportBranch(owner, factor);
      factor += 7;
    }
    Compose("voices", {kCode, kLaw});
    Compose("alone", {kLaw});
  }
  void TearDown() override { server_.Kill(); }
  void Compose(const std::string& name, const std::vector<std::string>& ids) {
    const std::string recipe = federation_.Path(name + ".toml");
    WriteText(recipe, "name = \"" + name + "\"\nmethod = \"ensemble\"\n" +
                          "experts = " + json(ids).dump() +
                          "\n[ensemble]\nweights = \"bayes\"\n");
    federation_.MustMotet({"compose", "apply", recipe});
  }
  void Serve() {
    const std::string port_file = federation_.Path("logs/serve.port");
    server_ =
        Process({Program("motet"), "serve", "voices", "--address",
                 "127.0.0.1:0", "--port-file", port_file},
                federation_.Path("logs/serve.log"), federation_.environment());
    WaitUntil("the server",
              [&] { return !ReadText(port_file).empty() || !server_.Alive(); });
    ASSERT_TRUE(server_.Alive()) << ReadText(server_.log());
    address_ = ReadText(port_file);
    address_.pop_back();
  }
  HttpReply Ask(json fields) const {
    fields["model"] = "voices";
    return HttpPost(address_, "/v1/completions", fields.dump());
  }
  json Answer(const json& fields) const {
    const HttpReply reply = Ask(fields);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body, nullptr, false);
  }
  // ln p of the tokens after the first `skip`.
  double LogLikelihood(const std::string& prompt, size_t skip,
                       const json& experts) const {
    json ask = {
        {"prompt", prompt}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}};
    if (!experts.is_null()) ask["experts"] = experts;
    const json scores = Answer(ask)["choices"][0]["logprobs"]["token_logprobs"];
    double sum = 0;
    for (size_t i = skip; i < scores.size(); ++i)
      sum += scores[i].get<double>();
    return sum;
  }
  size_t Tokens(const std::string& text) const {
    return Answer({{"prompt", text},
                   {"max_tokens", 0},
                   {"echo", true},
                   {"logprobs", 0}})["choices"][0]["logprobs"]["tokens"]
        .size();
  }
  Federation federation_;
  Process server_;
  std::string address_;
};

TEST_F(EnsembleE2e, HttpGenerateAndChoiceSayTheSame) {
  Serve();
  const auto generated = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"generate",  "voices",       "--prompt",
                                    "the river", "--max-tokens", "8"};
    all.insert(all.end(), more.begin(), more.end());
    return federation_.Json(all);
  };
  const json whole =
      Answer({{"prompt", "the river"}, {"max_tokens", 8}, {"temperature", 0}});
  EXPECT_EQ(whole["motet"]["experts"], json({kBase, kCode, kLaw}));
  EXPECT_EQ(whole["choices"][0]["text"], generated({})["text"]);
  const json narrowed = Answer({{"prompt", "the river"},
                                {"max_tokens", 8},
                                {"temperature", 0},
                                {"experts", {{"exclude", {"code.example"}}}}});
  EXPECT_EQ(narrowed["motet"]["experts"], json({kBase, kLaw}));
  EXPECT_EQ(narrowed["choices"][0]["text"],
            generated({"--exclude", "code.example"})["text"]);
  const HttpReply active = Ask({{"prompt", "a"}, {"experts", {{"active", 1}}}});
  EXPECT_EQ(active.status, 400);
  EXPECT_THAT(active.body, HasSubstr("whole models answer together"));

  // Multiple choice scores what HTTP echoes; without the expert it is, to the
  // last digit, the ensemble that never had it.
  const std::string data = federation_.Path("questions.jsonl");
  const std::string query = "the river runs", first = "down", second = "to sea";
  WriteText(data,
            json({{"query", query}, {"choices", {first, second}}, {"gold", 0}})
                    .dump() +
                "\n");
  const auto choose = [&](const std::string& model,
                          const std::vector<std::string>& more) {
    const std::string samples = federation_.Path("samples.jsonl");
    std::vector<std::string> all = {"eval", "choice",    model,  "--data",
                                    data,   "--samples", samples};
    all.insert(all.end(), more.begin(), more.end());
    const json result = federation_.Json(all);
    EXPECT_EQ(result["questions"], 1);
    return json::parse(ReadText(samples))["log_likelihoods"]
        .get<std::vector<double>>();
  };
  const size_t skip = Tokens(query);
  const auto all = choose("voices", {});
  ASSERT_EQ(all.size(), 2u);
  const json exclude = {{"exclude", {"code.example"}}};
  const auto without = choose("voices", {"--exclude", "code.example"});
  EXPECT_EQ(without, choose("alone", {}));
  EXPECT_NE(without, all);
  for (size_t i = 0; i < 2; ++i) {
    const std::string text = query + " " + (i == 0 ? first : second);
    EXPECT_NEAR(all[i], LogLikelihood(text, skip, nullptr), 1e-4);
    EXPECT_NEAR(without[i], LogLikelihood(text, skip, exclude), 1e-4);
  }
}

}  // namespace
}  // namespace motet::testing
