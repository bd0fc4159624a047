// SPDX-License-Identifier: Apache-2.0
// kill -9 of a real training, of an adapter or of an encoder from nothing: the
// same command goes on, does not encode again, and ends with the bytes of a run
// that was never disturbed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <functional>

#include "nlohmann/json.hpp"
#include "tests/harness/encoder_directory.h"
#include "tests/harness/process.h"

namespace motet::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

// One command that trains, and what it leaves.
struct Command {
  const char* name;
  std::vector<std::string> arguments;  // but --data, --out and --steps
  std::vector<const char*> files;
  const char* says;  // of a run that goes on; of nothing: ""
};

class TrainingFault : public ::testing::TestWithParam<Command> {
 protected:
  TrainingFault() : folder_(NewFolder(GetParam().name)) {
    WriteEncoderDirectory(Path("encoder"));
    fs::create_directories(Path("data/qrels"));
    std::string corpus, queries, judged = "query-id\tcorpus-id\tscore\n";
    for (int i = 0; i < 200; ++i) {
      const std::string n = std::to_string(i);
      corpus += json{{"_id", "d" + n},
                     {"text", "document " + n + " is of the number " + n}}
                    .dump() +
                "\n";
      queries += json{{"_id", "q" + n}, {"text", "what of " + n}}.dump() + "\n";
      judged += "q" + n + "\td" + n + "\t1\n";
    }
    WriteText(Path("data/corpus.jsonl"), corpus);
    WriteText(Path("data/queries.jsonl"), queries);
    WriteText(Path("data/qrels/train.tsv"), judged);
  }
  ~TrainingFault() override {
    if (!HasFailure()) fs::remove_all(folder_);
  }
  std::string Path(const std::string& below) const {
    return folder_ + "/" + below;
  }
  std::vector<std::string> Train(const std::string& out,
                                 const std::string& steps = "400") const {
    std::vector<std::string> all = {Program("motet")};
    for (const std::string& argument : GetParam().arguments) {
      all.push_back(argument == "ENCODER" ? Path("encoder") : argument);
    }
    all.insert(all.end(), {"--data", Path("data"), "--out", Path(out),
                           "--steps", steps, "--batch", "32", "--lr", "1e-3",
                           "--checkpoint-every", "3"});
    return all;
  }
  Result Run(const std::vector<std::string>& arguments) const {
    return motet::testing::Run(arguments, folder_, kEnvironment);
  }
  fs::file_time_type Checkpoint(const std::string& out) const {
    std::error_code none;
    return fs::last_write_time(Path(out) + ".work/checkpoint.safetensors",
                               none);
  }
  inline static const Environment kEnvironment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_NUM_THREADS", "1"}};
  std::string folder_;
};

TEST_P(TrainingFault, KilledEndsWithTheSameBytes) {
  const Result whole = Run(Train("whole"));
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_FALSE(fs::exists(Path("whole.work")));
  int killed = 0;
  for (int i = 0; i < 3; ++i) {
    const auto before = Checkpoint("again");
    Process process(Train("again"), Path("killed.log"), kEnvironment);
    while (process.Alive() && Checkpoint("again") == before) {
    }
    process.Signal(SIGSTOP);
    killed += process.Alive();
    process.Kill();
    EXPECT_FALSE(fs::exists(Path("again/") + GetParam().files[0]));
  }
  EXPECT_EQ(killed, 3);
  const Result again = Run(Train("again"));
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr(GetParam().says));
  for (const char* file : GetParam().files) {
    EXPECT_EQ(ReadText(Path("again/") + file), ReadText(Path("whole/") + file));
  }
  // What is there is never written over.
  const Result once_more = Run(Train("again"));
  EXPECT_EQ(once_more.code, 1);
  EXPECT_THAT(once_more.err, HasSubstr("want a new folder"));
}

TEST_P(TrainingFault, InterruptedSaysHowToGoOn) {
  const auto before = Checkpoint("out");
  Process process(Train("out", "100000"), Path("out.log"), kEnvironment);
  while (process.Alive() && Checkpoint("out") == before) {
  }
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130);
  EXPECT_THAT(ReadText(Path("out.log")),
              HasSubstr("the same command goes on from there"));
  // With other options it is another run.
  const Result other = Run(Train("out", "40"));
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.err, HasSubstr("steps = 100000"));
}

INSTANTIATE_TEST_SUITE_P(
    Commands, TrainingFault,
    ::testing::Values(
        Command{"adapter",
                {"adapter", "train", "ENCODER", "--hard-negatives", "2"},
                {"adapter_config.json", "adapter_model.safetensors"},
                "again.work"},  // its vectors
        Command{"encoder",
                {"encoder", "train", "--vocabulary", "300", "--width", "16",
                 "--layers", "1", "--heads", "2", "--ffn-width", "32",
                 "--max-tokens", "32", "--crop-most", "8", "--crop-least", "2"},
                {"config.json", "model.safetensors", "tokenizer.json"},
                ""}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace motet::testing
