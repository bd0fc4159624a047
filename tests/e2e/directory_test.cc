// SPDX-License-Identifier: Apache-2.0
// One model directory, no federation: generate, eval perplexity and serve as
// processes, on directories that the test writes itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "nlohmann/json.hpp"
#include "tests/harness/http.h"
#include "tests/harness/model_directory.h"
#include "tests/harness/process.h"

namespace motet::testing {
namespace {

using ::testing::HasSubstr;
using nlohmann::json;

class DirectoryTest : public ::testing::Test {
 protected:
  DirectoryTest() : folder_(NewFolder("directory")) {}
  ~DirectoryTest() override {
    server_.Kill();
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }
  std::string Path(const std::string& below) const {
    return folder_ + "/" + below;
  }
  std::string Write(const DirectoryOptions& options) {
    WriteModelDirectory(Path("tiny"), options);
    return Path("tiny");
  }
  Result Motet(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), Program("motet"));
    return motet::testing::Run(arguments, folder_, kEnvironment);
  }
  json Json(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"-o", "json"});
    const Result result = Motet(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err, "");  // no progress where there is no terminal
    return json::parse(result.out, nullptr, false);
  }
  void Serve(const std::string& model) {
    const std::string port_file = Path("port");
    server_ = Process({Program("motet"), "serve", model, "--address",
                       "127.0.0.1:0", "--port-file", port_file},
                      Path("serve.log"), kEnvironment);
    WaitUntil("serve", [&] {
      return !ReadText(port_file).empty() || !server_.Alive();
    });
    ASSERT_TRUE(server_.Alive()) << ReadText(server_.log());
    address_ = ReadText(port_file);
    address_.pop_back();  // the line's end
  }
  HttpReply Ask(const json& fields) const {
    json body = {{"model", "tiny"}, {"temperature", 0}};
    body.update(fields);
    return HttpPost(address_, "/v1/completions", body.dump());
  }
  json Answer(const json& fields) const {
    const HttpReply reply = Ask(fields);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body, nullptr, false);
  }

  inline static const Environment kEnvironment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_NUM_THREADS", "1"}};
  std::string folder_, address_;
  Process server_;
};

TEST_F(DirectoryTest, GenerateStreamsTheServedAnswer) {
  const std::string model = Write({});
  const Result text = Motet({"generate", model, "--prompt", "the river",
                             "--max-tokens", "12"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(text.err, "");
  const json whole = Json({"generate", model, "--prompt", "the river",
                           "--max-tokens", "12"});
  EXPECT_EQ(text.out, whole["text"].get<std::string>() + "\n");
  EXPECT_EQ(whole["usage"]["prompt_tokens"], 9);
  EXPECT_EQ(whole["motet"]["experts"], json::array());
  EXPECT_FALSE(whole["motet"].contains("lock_sha256"));
  // Another seed, another text; the same seed, the same.
  const auto drawn = [&](const char* seed) {
    return Json({"generate", model, "--prompt", "a", "--temperature", "1.5",
                 "--top-p", "0.99", "--top-k", "200", "--seed", seed})["text"];
  };
  EXPECT_EQ(drawn("7"), drawn("7"));
  EXPECT_NE(drawn("7"), drawn("8"));

  Serve(model);
  const json served = Answer({{"prompt", "the river"}, {"max_tokens", 12}});
  EXPECT_EQ(served["choices"][0]["text"], whole["text"]);
}

TEST_F(DirectoryTest, WrongCommandLinesSayWhatIsWanted) {
  const std::string model = Write({});
  const struct {
    std::vector<std::string> arguments;
    int code;
    const char* says;
  } cases[] = {
      {{"generate", model}, 2, "[motet generate] got no --prompt, want it"},
      {{"generate", model, "--prompt", "a", "--max-tokens", "none"}, 2,
       "[--max-tokens] got none, want 1 to 1048576"},
      {{"generate", model, "--prompt", "a", "--arithmetic", "f8"}, 2,
       "[--arithmetic] got f8, want one of f32, bf16"},
      {{"generate", model, "--prompt", "\xff"}, 2, "UTF-8"},
      {{"generate", model, "--prompt", "a", "--max-tokens", "9999"}, 1,
       "at most 256 together"},
      {{"generate", model, "--prompt", "a", "--exclude", "1"}, 1,
       "no experts to choose from"},
      {{"generate", Path("none"), "--prompt", "a"}, 1, "config.json"},
      {{"generate", "demo", "--prompt", "a"}, 1, "no federation"},
      {{"serve", model, "--router", "topk"}, 2, "has its own"},
      {{"eval", "perplexity", model, "--data", Path("no.jsonl")}, 1,
       "no.jsonl"},
  };
  for (const auto& c : cases) {
    const Result result = Motet(c.arguments);
    EXPECT_EQ(result.code, c.code) << c.says;
    EXPECT_THAT(result.err, HasSubstr(c.says));
    EXPECT_THAT(result.err, HasSubstr("] got "));
  }
}

TEST_F(DirectoryTest, PerplexityIsTheServedScores) {
  const std::string model = Write({});
  const std::vector<std::string> documents = {"0123456789", "abcde", "x", "",
                                              "\xC3\xA4\xC3\xB6"};
  std::string lines;
  for (const auto& text : documents) {
    lines += json{{"text", text}}.dump() + "\n";
  }
  WriteText(Path("data.jsonl"), lines);
  const json result = Json({"eval", "perplexity", model, "--data",
                            Path("data.jsonl"), "--window", "4"});
  ASSERT_EQ(result.size(), 3u) << result;
  // Windows of 4, 4, 2; 4, 1; 1; none; 4 bytes.
  EXPECT_EQ(result["tokens"], 3 + 3 + 1 + 3 + 3);

  Serve(model);
  double nll = 0;
  for (const auto& text : documents) {
    for (size_t at = 0; at + 1 < text.size(); at += 4) {
      json ids = json::array();
      for (const char c : text.substr(at, 4)) {
        ids.push_back(static_cast<unsigned char>(c));
      }
      const json scores =
          Answer({{"prompt", ids}, {"max_tokens", 0}, {"echo", true},
                  {"logprobs", 0}})["choices"][0]["logprobs"]
                ["token_logprobs"];
      ASSERT_EQ(scores.size(), ids.size());
      for (size_t i = 1; i < scores.size(); ++i) {
        nll -= scores[i].get<double>();
      }
    }
  }
  const double mean = nll / 13;
  EXPECT_NEAR(result["mean_nll"].get<double>(), mean, 1e-6 * mean);
  EXPECT_NEAR(result["perplexity"].get<double>(), std::exp(mean),
              1e-5 * std::exp(mean));
}

TEST_F(DirectoryTest, WhatEvaluationProgramsSend) {
  Serve(Write({}));
  const json models = json::parse(HttpGet(address_, "/v1/models").body);
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(models["data"][0]["experts"], json::array());
  const json common = {{"max_tokens", 1}, {"logprobs", 1}, {"seed", 1234},
                       {"echo", true}};
  const auto ask = [&](const json& prompt) {
    json fields = common;
    fields["prompt"] = prompt;
    return Answer(fields)["choices"];
  };
  // Ids, lists of ids, lists of texts: the same scores.
  const json batch = ask({{97, 98, 99, 100}, {101, 102}});
  ASSERT_EQ(batch.size(), 2u);
  for (size_t i = 0; i < batch.size(); ++i) EXPECT_EQ(batch[i]["index"], i);
  EXPECT_EQ(ask({"abcd", "ef"}), batch);
  EXPECT_EQ(ask({97, 98, 99, 100})[0]["logprobs"], batch[0]["logprobs"]);
  EXPECT_EQ(ask("abcd")[0]["logprobs"], batch[0]["logprobs"]);
  // One score for each token of the prompt and for the one made.
  EXPECT_EQ(batch[0]["logprobs"]["token_logprobs"].size(), 5u);
  EXPECT_TRUE(batch[0]["logprobs"]["token_logprobs"][0].is_null());
  for (size_t t = 1; t < 5; ++t) {
    EXPECT_LE(batch[0]["logprobs"]["token_logprobs"][t].get<double>(), 0);
    EXPECT_EQ(batch[0]["logprobs"]["top_logprobs"][t].size(), 1u);
  }

  // What cannot be answered.
  const auto refused = [&](const HttpReply& reply, const std::string& says) {
    EXPECT_EQ(reply.status, 400) << reply.body;
    EXPECT_THAT(reply.body, HasSubstr(says));
  };
  refused(HttpPost(address_, "/v1/completions",
                   "{\"model\": \"tiny\", \"prompt\": \"\xff\"}"),
          "not UTF-8");
  refused(Ask({{"prompt", std::string(250, 'a')}, {"max_tokens", 7}}),
          "context_length_exceeded");
  refused(Ask({{"prompt", {1, 258}}}), "token id 258");
}

TEST_F(DirectoryTest, ExpertsByIndex) {
  DirectoryOptions options;
  options.family = "flex_olmo";
  const std::string model = Write(options);
  const auto text = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", model, "--prompt", "the river",
                               "--max-tokens", "24"});
    return Json(more);
  };
  const json all = text({});
  EXPECT_EQ(all["motet"]["experts"], json({"0", "1", "2", "3"}));
  const json without = text({"--exclude", "2"});
  EXPECT_EQ(without["motet"]["experts"], json({"0", "1", "3"}));
  EXPECT_EQ(text({"--include", "1", "--include", "3"})["text"],
            without["text"]);
  const Result refused = Motet({"generate", model, "--prompt", "a",
                                "--exclude", "0"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("public expert"));

  Serve(model);
  const json answer = Answer({{"prompt", "the river"}, {"max_tokens", 24},
                              {"experts", {{"exclude", {"2"}}}}});
  EXPECT_EQ(answer["choices"][0]["text"], without["text"]);
  EXPECT_EQ(Answer({{"model", "tiny@no-2"}, {"prompt", "the river"},
                    {"max_tokens", 24}})["choices"][0]["text"],
            without["text"]);
  EXPECT_EQ(Ask({{"prompt", "a"}, {"experts", {{"exclude", {"0"}}}}}).status,
            400);
  EXPECT_EQ(Ask({{"prompt", "a"}, {"experts", {{"exclude", {"4"}}}}}).status,
            404);
}

TEST_F(DirectoryTest, MatrixRoutingAndChoice) {
  DirectoryOptions options;
  const std::string dense = Write(options);
  options.family = "mixtral";
  WriteModelDirectory(Path("mixed"), options);
  std::string lines;
  for (int i = 0; i < 60; ++i) {
    lines += json{{"text", "document " + std::to_string(i) +
                               " says something of its own"}}
                 .dump() +
             "\n";
  }
  WriteText(Path("data.jsonl"), lines);
  const std::string domain = "plain=" + Path("data.jsonl");

  const Result table = Motet(
      {"eval", "matrix", dense, Path("mixed"), "--domain", domain, "--window",
       "64", "--relative", "--unit", "bits-per-byte", "--csv", Path("m.csv"),
       "--json", Path("m.json"), "--svg", Path("m.svg")});
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("bits per byte, relative"));
  EXPECT_THAT(table.out, HasSubstr("tiny"));
  EXPECT_THAT(table.out, HasSubstr("mixed"));
  const json matrix = json::parse(ReadText(Path("m.json")));
  EXPECT_EQ(matrix["models"], json({"tiny", "mixed"}));
  // Each token is a byte; separators are none.
  EXPECT_GE(matrix["scored_tokens"][0].get<int64_t>(),
            matrix["scored_bytes"][0][0].get<int64_t>());
  EXPECT_THAT(ReadText(Path("m.csv")), HasSubstr("mixed,model,(all),"));
  EXPECT_THAT(ReadText(Path("m.svg")), HasSubstr("Bits per byte"));

  const json routing = Json({"eval", "routing", Path("mixed"), "--domain",
                             domain, "--svg", Path("r.svg")});
  EXPECT_EQ(routing["experts"], json({"0", "1", "2", "3"}));
  EXPECT_EQ(routing["domains"][0]["layers"].size(), 2u);
  EXPECT_THAT(ReadText(Path("r.svg")), HasSubstr("Who answers: mixed"));
  const Result none =
      Motet({"eval", "routing", dense, "--domain", domain});
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("a dense model"));
  const Result little = Motet({"eval", "routing", Path("mixed"), "--domain",
                               domain, "--max-bytes", "500"});
  EXPECT_EQ(little.code, 2);
  EXPECT_THAT(little.err, HasSubstr("[domain plain] got 500 tokens"));

  WriteText(Path("task.jsonl"),
            R"({"query": "a", "choices": ["b", "cd"], "gold": 1})"
            "\n");
  const json choice = Json({"eval", "choice", dense, "--data",
                            Path("task.jsonl"), "--samples", Path("s.jsonl")});
  EXPECT_EQ(choice["questions"], 1);
  const json sample = json::parse(ReadText(Path("s.jsonl")));
  const bool second = sample["log_likelihoods"][1].get<double>() >
                      sample["log_likelihoods"][0].get<double>();
  EXPECT_EQ(choice["acc"], second ? 1.0 : 0.0);
}

// The most that the process ever held, in bytes.
int64_t PeakBytes(pid_t pid) {
  const std::string status =
      ReadText("/proc/" + std::to_string(pid) + "/status");
  const size_t at = status.find("VmHWM:");
  return at == std::string::npos
             ? -1
             : std::stoll(status.substr(at + 6)) * int64_t{1024};
}

// Logits of the whole prompt would be 500 MiB.
TEST_F(DirectoryTest, ScoringALongPromptTakesLittleMemory) {
  DirectoryOptions options;
  options.vocabulary = 65536;
  options.positions = 2048;
  options.width = 16;
  const std::string model = Write(options);
  Serve(model);
  json ids = json::array();
  for (int i = 0; i < 2000; ++i) ids.push_back(i * 31 % options.vocabulary);
  const json scores = Answer({{"prompt", ids}, {"max_tokens", 2},
                              {"echo", true}, {"logprobs", 5}});
  EXPECT_EQ(scores["choices"][0]["logprobs"]["token_logprobs"].size(), 2002u);
  const int64_t weights = static_cast<int64_t>(
      std::filesystem::file_size(model + "/model.safetensors"));
  const int64_t cache = int64_t{2} * options.layers * 2002 *
                        (options.width / options.heads * options.kv_heads) * 4;
  EXPECT_GT(PeakBytes(server_.pid()), 0);
  EXPECT_LE(PeakBytes(server_.pid()), weights + cache + (int64_t{150} << 20));
}

}  // namespace
}  // namespace motet::testing
