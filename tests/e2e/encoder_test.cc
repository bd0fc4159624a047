// SPDX-License-Identifier: Apache-2.0
// motet encoder train as a process, at a tiny shape: its folder serves an
// index, a second run gives the same bytes, errors name what is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "proto/files.h"
#include "tests/harness/model_files.h"
#include "tests/harness/process.h"

namespace motet::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class EncoderTest : public ::testing::Test {
 protected:
  EncoderTest() : folder_(NewFolder("encoder")) {
    std::filesystem::create_directories(Path("data"));
    const char* const nouns[] = {"river", "court", "heart", "engine", "garden"};
    const char* const verbs[] = {"runs", "rules", "beats", "turns", "grows"};
    std::string corpus;
    for (int i = 0; i < 25; ++i) {
      const std::string noun = nouns[i % 5], verb = verbs[i / 5];
      corpus += json{{"_id", "d" + std::to_string(i)},
                     {"text", "the " + noun + " " + verb + " and the " + noun +
                                  " still " + verb + ", a " + noun + " that " +
                                  verb}}
                    .dump() +
                "\n";
    }
    corpus += json{{"_id", "short"}, {"text", "a"}}.dump() + "\n";
    WriteText(Path("data/corpus.jsonl"), corpus);
  }
  ~EncoderTest() override {
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }
  std::string Path(const std::string& below) const {
    return folder_ + "/" + below;
  }
  Result Motet(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), Program("motet"));
    return motet::testing::Run(arguments, folder_, kEnvironment);
  }
  Result Train(const std::string& out,
               const std::map<std::string, std::string>& more = {}) const {
    std::map<std::string, std::string> options = {
        {"--data", Path("data")}, {"--out", Path(out)}, {"--vocabulary", "300"},
        {"--width", "16"},        {"--layers", "1"},    {"--heads", "2"},
        {"--ffn-width", "32"},    {"--steps", "40"},    {"--batch", "16"},
        {"--max-tokens", "32"},   {"--crop-most", "16"}};
    for (const auto& [name, value] : more) options[name] = value;
    std::vector<std::string> all = {"encoder", "train", "-o", "json"};
    for (const auto& [name, value] : options) {
      all.insert(all.end(), {name, value});
    }
    return Motet(all);
  }

  inline static const Environment kEnvironment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_NUM_THREADS", "1"}};
  std::string folder_;
};

TEST_F(EncoderTest, TrainsWhatAnIndexTakes) {
  const Result result = Train("made");
  ASSERT_EQ(result.code, 0) << result.err;
  const json made = json::parse(result.out);
  EXPECT_EQ(made["documents"], 25);
  EXPECT_EQ(made["too_short"], 1);
  EXPECT_EQ(made["steps"], 40);
  EXPECT_LT(made["loss_curve"].back(), made["loss_curve"].front());
  EXPECT_FALSE(std::filesystem::exists(Path("made.work")));
  for (const char* name :
       {"config.json", "model.safetensors", "modules.json", "tokenizer.json",
        "tokenizer_config.json", "1_Pooling/config.json"}) {
    EXPECT_TRUE(std::filesystem::exists(Path("made/") + name)) << name;
  }
  const Result built =
      Motet({"index", "build", Path("index"), "--encoder", Path("made"),
             "--data", Path("data/corpus.jsonl")});
  ASSERT_EQ(built.code, 0) << built.err;
  const Result found = Motet({"search", Path("index"), "--query",
                              "the heart beats and the heart still beats, a "
                              "heart that beats",
                              "-k", "1"});
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_THAT(found.out, HasSubstr("d12"));  // a text finds itself

  ASSERT_EQ(Train("again").code, 0);
  for (const char* name : {"/model.safetensors", "/tokenizer.json"}) {
    EXPECT_EQ(*proto::ReadFile(Path("made") + name, 1 << 24),
              *proto::ReadFile(Path("again") + name, 1 << 24));
  }
}

TEST_F(EncoderTest, NamesWhatIsWrong) {
  const auto refused = [&](const Result& result, const char* part) {
    EXPECT_NE(result.code, 0);
    EXPECT_THAT(result.err, HasSubstr(part));
    EXPECT_FALSE(std::filesystem::exists(Path("made/config.json")));
  };
  refused(Train("made", {{"--heads", "3"}}),
          "num_attention_heads = 3 (want a divisor of hidden_size = 16)");
  // Before anything is read or trained.
  refused(Train("made", {{"--crop-most", "31"}, {"--data", Path("nothing")}}),
          "want at most 30");
  refused(Train("made", {{"--crop-least", "12"}, {"--crop-most", "8"}}),
          "crops of at most 8 tokens (want at least 12");
  refused(Train("made", {{"--crop-least", "100"},
                         {"--crop-most", "200"},
                         {"--max-tokens", "256"}}),
          "0 documents of 100 tokens or more");
  refused(Train("made", {{"--widht", "16"}}), "--widht");
  WriteText(Path("data/corpus.jsonl"), "");
  refused(Train("made"), "no document with text");
  WriteText(Path("data/corpus.jsonl"), "{\"_id\": \"a\"}\nnot JSON\n");
  refused(Train("made"), "corpus.jsonl");
}

}  // namespace
}  // namespace motet::testing
