// SPDX-License-Identifier: Apache-2.0
// motet serve over an encoder's folder and indexes, as a process: embeddings
// and searches over a socket, and what it refuses to start with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/harness/encoder_directory.h"
#include "tests/harness/http.h"
#include "tests/harness/model_directory.h"
#include "tests/harness/process.h"

namespace motet::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class RetrievalServeTest : public ::testing::Test {
 protected:
  RetrievalServeTest() : folder_(NewFolder("retrieval_serve")) {
    WriteEncoderDirectory(Path("encoder"));
    WriteText(Path("corpus.jsonl"),
              "{\"_id\": \"sea\", \"text\": \"salt water of the sea\", "
              "\"metadata\": {\"year\": 1999}}\n"
              "{\"_id\": \"law\", \"title\": \"Law\", \"text\": \"of the "
              "land\"}\n");
    Build("encoder", "notes");
  }
  ~RetrievalServeTest() override {
    server_.Kill();
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }
  std::string Path(const std::string& below) const {
    return folder_ + "/" + below;
  }
  Result Motet(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), Program("motet"));
    return motet::testing::Run(arguments, folder_, kEnvironment);
  }
  void Build(const std::string& encoder, const std::string& index) const {
    const Result built = Motet({"index", "build", Path(index), "--encoder",
                                Path(encoder), "--data", Path("corpus.jsonl")});
    EXPECT_EQ(built.code, 0) << built.err;
  }
  void Serve(std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        Program("motet"), "serve",       Path("encoder"), "--address",
        "127.0.0.1:0",    "--port-file", Path("port")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    server_ = Process(arguments, Path("serve.log"), kEnvironment);
    WaitUntil("serve", [&] {
      return !ReadText(Path("port")).empty() || !server_.Alive();
    });
    ASSERT_TRUE(server_.Alive()) << ReadText(server_.log());
    address_ = ReadText(Path("port"));
    address_.pop_back();  // the line's end
  }
  json Post(const std::string& path, json body) const {
    body["model"] = "encoder";
    const HttpReply reply = HttpPost(address_, path, body.dump());
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body, nullptr, false);
  }

  inline static const Environment kEnvironment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_NUM_THREADS", "1"}};
  std::string folder_, address_;
  Process server_;
};

TEST_F(RetrievalServeTest, EmbedsAndSearches) {
  Serve({"--index", "notes=" + Path("notes")});
  const json models =
      json::parse(HttpGet(address_, "/v1/models").body, nullptr, false);
  EXPECT_EQ(models["data"][0]["id"], "encoder");
  EXPECT_EQ(models["data"][0]["indexes"][0]["documents"], 2);

  const json one = Post("/v1/embeddings", {{"input", "salt water"}});
  EXPECT_EQ(one["data"][0]["embedding"].size(), 32u);
  EXPECT_EQ(one["data"][0]["expert"], "base");
  EXPECT_EQ(one["motet"]["experts"], json::array());
  // The server's hits are those of the command line.
  for (const char* mode : {"dense", "bm25", "fusion"}) {
    const json served = Post(
        "/v1/search",
        {{"query", "salt water of the sea"}, {"mode", mode}, {"text", true}});
    const Result asked =
        Motet({"search", Path("notes"), "--query", "salt water of the sea",
               "--mode", mode, "-o", "json"});
    EXPECT_EQ(served["results"][0]["documents"],
              json::parse(asked.out, nullptr, false)["results"][0]["hits"])
        << asked.err;
  }
  // Sixteen at once: each its own.
  std::vector<std::thread> clients;
  std::vector<json> answers(16);
  for (size_t c = 0; c < answers.size(); ++c) {
    clients.emplace_back([&, c] {
      answers[c] =
          Post("/v1/embeddings", {{"input", "text " + std::to_string(c)}});
    });
  }
  for (auto& client : clients) client.join();
  for (size_t c = 0; c < answers.size(); ++c) {
    EXPECT_EQ(answers[c],
              Post("/v1/embeddings", {{"input", "text " + std::to_string(c)}}));
  }
  EXPECT_EQ(HttpPost(address_, "/v1/completions", "{}").status, 404);
  EXPECT_EQ(server_.Stop(), 0);
}

TEST_F(RetrievalServeTest, WhatItDoesNotStartWith) {
  WriteEncoderDirectory(Path("other"), {.seed = 2});
  Build("other", "foreign");
  WriteModelDirectory(Path("text"), {});
  const std::string index = "notes=" + Path("notes");
  const struct {
    std::vector<std::string> arguments;
    const char* says;
  } cases[] = {
      {{Path("encoder"), "--index", Path("foreign")},
       "the one it was built with"},
      {{Path("encoder"), "--index", "x=" + Path("nowhere")}, "nowhere"},
      {{Path("encoder"), "--index", index, "--index", index},
       "two called \"notes\""},
      {{Path("encoder"), "--router", "topk"}, "--router"},
      {{Path("encoder"), "--grpc-address", "127.0.0.1:0"}, "motet.toml"},
      {{Path("text"), "--index", index}, "--index"},
  };
  for (const auto& c : cases) {
    std::vector<std::string> arguments = {"serve", "--address", "127.0.0.1:0"};
    arguments.insert(arguments.end(), c.arguments.begin(), c.arguments.end());
    const Result result = Motet(arguments);
    EXPECT_NE(result.code, 0);
    EXPECT_THAT(result.err, HasSubstr(c.says));
  }
}

}  // namespace
}  // namespace motet::testing
