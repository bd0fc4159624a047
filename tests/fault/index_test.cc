// SPDX-License-Identifier: Apache-2.0
// kill -9 of a real index build or add: what was acknowledged is there, the
// index can be searched, and the same command ends where an unbroken one ends,
// to the byte.
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

class IndexFault : public ::testing::Test {
 protected:
  IndexFault() : folder_(NewFolder("index")) {
    WriteEncoderDirectory(Path("encoder"));
    WriteCorpus("first.jsonl", "a", 1000);
    WriteCorpus("second.jsonl", "b", 4000);
  }
  ~IndexFault() override {
    if (!HasFailure()) fs::remove_all(folder_);
  }
  std::string Path(const std::string& below) const {
    return folder_ + "/" + below;
  }
  void WriteCorpus(const std::string& name, const std::string& prefix,
                   int count) const {
    std::string corpus;
    for (int i = 0; i < count; ++i) {
      const std::string id = prefix + std::to_string(i);
      corpus += json{{"_id", id},
                     {"text", "the document " + id + " of the federation"}}
                    .dump() +
                "\n";
    }
    WriteText(Path(name), corpus);
  }
  std::vector<std::string> Build(const std::string& index,
                                 const std::string& kind) const {
    return {Program("motet"), "index",
            "build",          Path(index),
            "--encoder",      Path("encoder"),
            "--data",         Path("first.jsonl"),
            "--kind",         kind};
  }
  std::vector<std::string> Add(const std::string& index) const {
    return {Program("motet"), "index",  "add",
            Path(index),      "--data", Path("second.jsonl")};
  }
  json Must(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"-o", "json"});
    const Result result = motet::testing::Run(arguments, folder_, kEnvironment);
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }
  json Info(const std::string& index) const {
    return Must({Program("motet"), "index", "info", Path(index), "--check"});
  }
  // The document that a search for another's text finds first.
  std::string First(const std::string& index, const std::string& id) const {
    return Must({Program("motet"), "search", Path(index), "--query",
                 "the document " + id + " of the federation", "-k",
                 "1"})["results"][0]["hits"][0]["id"];
  }
  int64_t Rows(const std::string& index) const {
    std::error_code error;
    const auto bytes = fs::file_size(Path(index) + "/vectors.f32", error);
    return error ? 0 : static_cast<int64_t>(bytes / (32 * sizeof(float)));
  }
  // Kills a run of the command within `when`; false when it was faster.
  bool KillWhen(const std::vector<std::string>& arguments,
                const std::function<bool()>& when) const {
    Process process(arguments, Path("killed.log"), kEnvironment);
    while (process.Alive() && !when()) {
    }
    process.Signal(SIGSTOP);
    const bool within = process.Alive();
    process.Kill();
    return within;
  }

  inline static const Environment kEnvironment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_NUM_THREADS", "1"}};
  std::string folder_;
};

TEST_F(IndexFault, KilledAddLosesNothingAcknowledged) {
  Must(Build("whole", "flat"));
  Must(Add("whole"));
  const json whole = Info("whole");
  EXPECT_EQ(whole["documents"], 5000);

  Must(Build("index", "flat"));
  const json before = Info("index");
  EXPECT_EQ(before["documents"], 1000);
  // Again and again, each time a little further.
  int killed = 0;
  for (int64_t rows = 1000; rows < 5000; rows += 700) {
    const int64_t documents = Info("index")["documents"];
    killed += KillWhen(Add("index"), [&] { return Rows("index") > rows; });
    EXPECT_GE(Info("index")["documents"], documents);
    EXPECT_EQ(First("index", "a7"), "a7");
  }
  EXPECT_GE(killed, 3);
  const json added = Must(Add("index"));
  EXPECT_EQ(added["added"].get<int>() + added["unchanged"].get<int>(), 4000);
  const json after = Info("index");
  EXPECT_EQ(after["documents"], 5000);
  EXPECT_EQ(after["dead"], 0);
  EXPECT_EQ(after["content_sha256"], whole["content_sha256"]);
  EXPECT_EQ(First("index", "b3999"), "b3999");
}

TEST_F(IndexFault, WhatTheProgressLineSaysIsSafe) {
  const bool killed = KillWhen(Build("index", "flat"), [&] {
    return ReadText(Path("killed.log")).find("safe") != std::string::npos;
  });
  ASSERT_TRUE(killed);
  EXPECT_THAT(ReadText(Path("killed.log")), HasSubstr("256 of 1000 safe"));
  EXPECT_GE(Info("index")["documents"], 256);
  EXPECT_EQ(Must(Build("index", "flat"))["rows"], 1000);
}

TEST_F(IndexFault, KilledStructureIsBuiltAgain) {
  Must(Build("index", "hnsw"));
  const json before = Info("index");
  EXPECT_EQ(before["structure_rows"], 1000);
  // Killed while its new graph is half written, or grows.
  const auto partial = [&] {
    return fs::exists(Path("index/structures/hnsw-5000.partial"));
  };
  if (KillWhen(Add("index"), partial)) {
    const json info = Info("index");
    EXPECT_EQ(info["documents"], 5000);
    EXPECT_EQ(info["structure_rows"], 1000);
    EXPECT_EQ(First("index", "b3999"), "b3999");
  }
  Must(Add("index"));
  const json after = Info("index");
  EXPECT_EQ(after["structure_rows"], 5000);
  EXPECT_FALSE(partial());
  EXPECT_EQ(First("index", "a7"), "a7");
  EXPECT_EQ(First("index", "b3999"), "b3999");
}

}  // namespace
}  // namespace motet::testing
