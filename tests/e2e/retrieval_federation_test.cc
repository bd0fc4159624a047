// SPDX-License-Identifier: Apache-2.0
// A federation of retrieval experts, as its people type it: an encoder becomes
// the base, owners import BEIR folders, train adapters, make pilots from one
// another's adapters, an adapter of elsewhere is imported; and no query or
// document of theirs is found in anything that the federation keeps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/harness/encoder_directory.h"
#include "tests/harness/federation.h"
#include "tests/harness/http.h"

namespace motet::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr int kQueries = 10;

// One query and its document for each number, in words of the owner's own.
std::string Text(const std::string& owner, const char* what, int i) {
  std::string number;
  for (const char c : std::to_string(100 + 7 * i)) {
    number += static_cast<char>('a' + (c - '0'));
  }
  return owner + " " + what + " " + number + " canary " + owner + number;
}

class RetrievalFederationTest : public ::testing::Test {
 protected:
  void Begin() {
    f_.Begin();
    EncoderOptions o;
    o.width = 16;
    o.heads = 2;
    o.ffn_width = 24;
    o.layers = 1;
    WriteEncoderDirectory(f_.Path("encoder"), o);
    f_.MustMotet(
        {"base", "import", f_.Path("encoder"), "--licence", "Apache-2.0"});
    f_.MustMotet({"base", "publish"});
  }
  std::string Beir(const std::string& owner) {
    const std::string folder = f_.Path("beir-" + owner);
    fs::create_directories(folder + "/qrels");
    std::string corpus, queries, judged = "query-id\tcorpus-id\tscore\n";
    for (int i = 0; i < kQueries; ++i) {
      const std::string n = std::to_string(i);
      corpus +=
          json{{"_id", "d" + n}, {"text", Text(owner, "tells of", i)}}.dump() +
          "\n";
      queries +=
          json{{"_id", "q" + n}, {"text", Text(owner, "what is", i)}}.dump() +
          "\n";
      judged += "q" + n + "\td" + n + "\t1\n";
    }
    WriteText(folder + "/corpus.jsonl", corpus);
    WriteText(folder + "/queries.jsonl", queries);
    WriteText(folder + "/qrels/train.tsv", judged);
    return folder;
  }
  void Join(const std::string& owner, const std::string& terms = "") {
    f_.Join(owner, terms + "[pilots]\nmin_queries = 2\n");
    const Result r = f_.MustMotetNode(
        {"corpus", "import", "--dir", f_.Node(owner), Beir(owner)});
    EXPECT_THAT(r.out, HasSubstr("10 training queries"));
    f_.StartNode(owner);
  }
  Result Offer(const std::string& id, const std::string& owner,
               const std::string& lines) {
    const std::string path = f_.Path(id + ".toml");
    WriteText(path, "id = \"" + id + "\"\nowners = [\"" + owner +
                        ".example\"]\n" + lines);
    return f_.Motet({"-o", "json", "train", "offer", path});
  }
  // The offer's JSON, when the job has been published.
  json Run(const std::string& id, const std::string& owner,
           const std::string& lines) {
    const Result r = Offer(id, owner, lines);
    EXPECT_EQ(r.code, 0) << r.err;
    f_.AwaitPublished(id);
    return json::parse(r.out, nullptr, false);
  }
  json Manifest(const std::string& id) {
    return f_.Json({"expert", "show", id});
  }

  static constexpr char kAdapter[] =
      "kind = \"embedding_adapter\"\nrank = 2\nalpha = 8\nsteps = 5\n"
      "batch = 4\nlearning_rate = 1e-2\nhard_negatives = 1\n";
  Federation f_;
};

TEST_F(RetrievalFederationTest, FromAnEncoderToPilots) {
  Begin();
  Join("sea");
  Join("law");
  Join("shut", "forbidden_purposes = [\"scoring\"]\n");
  for (const char* owner : {"sea", "law", "shut"}) {
    Run(std::string("train-") + owner, owner, kAdapter);
  }
  const json adapter = Manifest("sea.example/sea@1.0.0");
  EXPECT_EQ(adapter["kind"], "embedding_adapter");
  EXPECT_EQ(adapter["adapter"]["queries"], "10");

  // Every adapter of the base, but for what a licence keeps.
  json said = Run("pilots-sea", "sea", "kind = \"pilots\"\n");
  EXPECT_EQ(said["scored"],
            json({"law.example/law@1.0.0", "sea.example/sea@1.0.0"}));
  EXPECT_EQ(said["left_out"][0]["id"], "shut.example/shut@1.0.0");
  EXPECT_EQ(said["left_out"][0]["reason"], "licence forbids purpose scoring");
  const json pilots = Manifest("sea.example/pilots-sea@1.0.0");
  EXPECT_EQ(pilots["pilots"]["of"], "sea.example/sea@1.0.0");
  EXPECT_EQ(pilots["pilots"]["scorings"], "20");
  // Its own licence is no matter to an owner.
  said = Run("pilots-shut", "shut",
             "kind = \"pilots\"\nexperts = [\"sea.example/sea\", "
             "\"shut.example/shut@1.0.0\"]\n");
  EXPECT_EQ(said["left_out"], json::array());

  // An owner that comes later.
  const std::string before =
      f_.Json({"expert", "show", "sea.example/pilots-sea@1.0.0"}).dump();
  Join("art");
  Run("train-art", "art", kAdapter);
  Run("pilots-art", "art", "kind = \"pilots\"\n");
  const json art = Manifest("art.example/pilots-art@1.0.0");
  EXPECT_EQ(art["pilots"]["scorings"], "30");
  EXPECT_LE(art["pilots"]["groups"].size(), 3u);
  EXPECT_EQ(f_.Json({"expert", "show", "sea.example/pilots-sea@1.0.0"}).dump(),
            before);

  // The package is PEFT's folder; as one of elsewhere it imports again.
  const std::string fetched = f_.Path("fetched");
  f_.MustMotet({"expert", "fetch", "sea.example/sea@1.0.0", "--out", fetched});
  const std::string peft = f_.Path("peft");
  fs::create_directories(peft);
  for (const char* name :
       {"adapter_config.json", "adapter_model.safetensors"}) {
    fs::copy(fetched + "/" + name, peft + "/" + name);
  }
  const auto import = [&](const std::string& as) {
    return f_.Motet({"expert", "import", peft, "--as", as, "--node",
                     f_.Node("law"), "--licence", "MIT"});
  };
  EXPECT_EQ(import("law.example/elsewhere").code, 0);
  EXPECT_EQ(Manifest("law.example/elsewhere@1.0.0")["adapter"]["rank"], 2);
  json config = json::parse(ReadText(peft + "/adapter_config.json"));
  config["r"] = 3;
  WriteText(peft + "/adapter_config.json", config.dump());
  EXPECT_THAT(import("law.example/rank").err, HasSubstr("lora_A"));
  config["r"] = 2;
  config["target_modules"] = {"query", "gate_proj"};
  WriteText(peft + "/adapter_config.json", config.dump());
  EXPECT_THAT(import("law.example/targets").err, HasSubstr("gate_proj"));
  EXPECT_THAT(f_.Packages(),
              ::testing::Not(Contains("law.example/rank@1.0.0")));

  // Revoked adapters are not scored with, named or not.
  f_.MustMotet(
      {"expert", "revoke", "law.example/law@1.0.0", "--reason", "withdrawn"});
  EXPECT_THAT(Offer("named", "sea",
                    "kind = \"pilots\"\nexperts = "
                    "[\"law.example/law@1.0.0\"]\n")
                  .err,
              AllOf(HasSubstr("law.example/law@1.0.0"), HasSubstr("revoked")));
  EXPECT_THAT(Offer("newest", "sea",
                    "kind = \"pilots\"\nexperts = "
                    "[\"law.example/law\"]\n")
                  .err,
              AllOf(HasSubstr("law.example/law"), HasSubstr("no adapter")));
  EXPECT_THAT(Offer("text", "sea", "").err,
              HasSubstr("want embedding_adapter or pilots"));

  // What the federation keeps: registry, coordinator, logs.
  for (const char* owner : {"sea", "law", "shut", "art"}) {
    for (const char* folder : {"federation", "logs"}) {
      for (const auto& file :
           fs::recursive_directory_iterator(f_.Path(folder))) {
        if (!file.is_regular_file()) continue;
        const std::string bytes = ReadText(file.path());
        for (int i = 0; i < kQueries; ++i) {
          const std::string canary = Text(owner, "", i);
          EXPECT_EQ(bytes.find(canary.substr(canary.find("canary"))),
                    std::string::npos)
              << file.path() << " " << canary;
        }
      }
    }
  }
}

// Composed, served with the federation's certificates, and one withdrawn.
TEST_F(RetrievalFederationTest, ComposedServedAndWithdrawn) {
  Begin();
  Join("sea");
  Join("law", "forbidden_purposes = [\"advertising\"]\n");
  for (const char* owner : {"sea", "law"}) {
    Run(std::string("train-") + owner, owner, kAdapter);
  }
  for (const char* owner : {"sea", "law"}) {
    Run(std::string("pilots-") + owner, owner, "kind = \"pilots\"\n");
  }
  WriteText(f_.Path("recipe.toml"),
            "name = \"library\"\nmethod = \"router_retriever\"\n"
            "experts = [\"sea.example/sea\", \"law.example/law\"]\n");
  f_.MustMotet({"compose", "apply", f_.Path("recipe.toml")});
  f_.MustMotet({"index", "build", f_.Path("index"), "--encoder",
                f_.Path("encoder"), "--data",
                f_.Path("beir-sea/corpus.jsonl")});

  Process server;
  std::string address;
  const auto serve = [&] {
    const std::string http = f_.Path("http"), grpc = f_.Path("grpc");
    fs::remove(http);
    server =
        Process({Program("motet"), "--federation", f_.home(), "serve",
                 "library", "--index", "docs=" + f_.Path("index"), "--address",
                 "127.0.0.1:0", "--port-file", http, "--grpc-address",
                 "127.0.0.1:0", "--grpc-port-file", grpc},
                f_.Path("serve.log"), f_.environment());
    WaitUntil("serve",
              [&] { return !ReadText(http).empty() || !server.Alive(); });
    ASSERT_TRUE(server.Alive()) << ReadText(server.log());
    EXPECT_THAT(ReadText(grpc), ::testing::StartsWith("127.0.0.1:"));
    address = ReadText(http);
    address.pop_back();  // the line's end
  };
  const auto ask = [&](const char* path, json body) {
    body["model"] = "library";
    const HttpReply reply = HttpPost(address, path, body.dump());
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body, nullptr, false);
  };
  serve();
  const json query = {{"input", Text("sea", "what is", 3)}};
  const json all = ask("/v1/embeddings", query);
  EXPECT_EQ(all["motet"]["experts"].size(), 3u);  // the base, and both
  json narrow = query;
  narrow["experts"] = {{"exclude", {"law"}}};
  const json without = ask("/v1/embeddings", narrow);
  json advertising = query;
  advertising["purpose"] = "advertising";
  const json kept = ask("/v1/embeddings", advertising);
  EXPECT_EQ(kept["motet"]["withheld"][0]["expert"], "law.example/law@1.0.0");
  EXPECT_EQ(kept["data"], without["data"]);
  EXPECT_EQ(kept["motet"]["expert_set_sha256"],
            without["motet"]["expert_set_sha256"]);
  // Nobody's: the base's own.
  narrow["experts"] = {{"exclude", {"law", "sea"}}};
  EXPECT_EQ(ask("/v1/embeddings", narrow)["data"][0]["expert"], "base");
  // Over HTTP as on the command line.
  const json found =
      ask("/v1/search", {{"query", Text("sea", "what is", 3)}, {"text", true}});
  const json hits =
      f_.Json({"search", f_.Path("index"), "--composition", "library",
               "--query", Text("sea", "what is", 3)})["results"][0]["hits"];
  EXPECT_EQ(found["results"][0]["documents"], hits);
  EXPECT_EQ(server.Stop(), 0);

  f_.MustMotet({"expert", "revoke", "law.example/pilots-law@1.0.0", "--reason",
                "withdrawn"});
  serve();
  const json after = ask("/v1/embeddings", query);
  EXPECT_EQ(after["motet"]["withheld"][0]["reason"], "package revoked");
  EXPECT_EQ(after["data"], without["data"]);
}

}  // namespace
}  // namespace motet::testing
