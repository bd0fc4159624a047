// SPDX-License-Identifier: Apache-2.0
// kill -9 of a real compose or export while its result is half there: what
// was there stays, to the byte, and the same command completes. Also what
// compose add, rm and plan say and do, and a composition whose package is
// gone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <functional>
#include <map>

#include "proto/files.h"
#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::map<std::string, std::string> Files(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename()] = ReadText(entry.path());
  }
  return files;
}

class ComposeFault : public ::testing::Test {
 protected:
  void SetUp() override {
    federation_.Start();
    float factor = 2;
    for (const char* owner : {"code", "law", "maths"}) {
      federation_.Join(owner);
      federation_.ImportBranch(owner, factor++);
    }
    WriteRecipe("soup.toml", "linear");
    WriteRecipe("other.toml", "ties");
  }
  void WriteRecipe(const std::string& file, const std::string& kind) {
    WriteText(federation_.Path(file),
              "name = \"soup\"\nmethod = \"merge\"\n"
              "experts = [\"code.example/tuned\", \"law.example/tuned\"]\n"
              "[merge]\nkind = \"" +
                  kind + "\"\n");
  }
  std::string Soup() const { return federation_.home() + "/compositions/soup"; }
  // Runs the command again and again until one was stopped with `partial`
  // there, then kills it. after(true): killed; after(false): it was faster.
  void KillWithin(const std::vector<std::string>& arguments,
                  const std::string& partial,
                  const std::function<void(bool killed)>& after) {
    KillWithin(arguments, [&] { return fs::exists(partial); }, after);
  }
  void KillWithin(const std::vector<std::string>& arguments,
                  const std::function<bool()>& there,
                  const std::function<void(bool killed)>& after) {
    std::vector<std::string> all = {Program("motet")};
    all.insert(all.end(), arguments.begin(), arguments.end());
    for (int run = 0; run < 50; ++run) {
      Process process(all, federation_.Path("killed.log"),
                      federation_.environment());
      while (!there() && process.Alive()) {
      }
      process.Signal(SIGSTOP);
      const bool within = process.Alive() && there();
      process.Kill();
      after(within);
      if (within || ::testing::Test::HasFailure()) return;
    }
    FAIL() << "no run was slow enough to be killed";
  }
  Federation federation_;
};

TEST_F(ComposeFault, KilledApplyLeavesTheOldResult) {
  const std::string good = federation_.Path("soup.toml");
  const std::string other = federation_.Path("other.toml");
  federation_.MustMotet({"compose", "apply", good});
  const auto before = Files(Soup());
  ASSERT_TRUE(before.contains("weights.safetensors"));
  const std::string partial =
      federation_.home() + "/compositions/.soup.partial";
  KillWithin({"compose", "apply", other}, partial, [&](bool killed) {
    if (killed) {
      EXPECT_EQ(Files(Soup()), before);
      federation_.MustMotet({"generate", "soup", "--prompt", "the river",
                             "--max-tokens", "4", "--offline"});
      return;
    }
    federation_.MustMotet({"compose", "apply", good});
  });
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", other}).out,
              HasSubstr("replaced"));
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_TRUE(Files(Soup()) != before);
}

TEST_F(ComposeFault, KilledExportLeavesTheOldFolder) {
  federation_.MustMotet({"compose", "apply", federation_.Path("soup.toml")});
  const std::string out = federation_.Path("exported");
  federation_.MustMotet({"compose", "export", "soup", "--out", out});
  const auto before = Files(out);
  federation_.MustMotet({"compose", "apply", federation_.Path("other.toml")});
  const std::string partial = federation_.Path(".exported.partial");
  const std::vector<std::string> again = {"compose", "export", "soup",
                                          "--out",   out,      "--replace"};
  bool killed_once = false;
  KillWithin(again, partial, [&](bool killed) {
    killed_once = killed;
    if (killed) EXPECT_EQ(Files(out), before);
  });
  EXPECT_TRUE(killed_once);
  federation_.MustMotet(again);
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_TRUE(Files(out) != before);
}

TEST_F(ComposeFault, OneCommandAddsAndRemovesAndSaysWhatChanges) {
  const std::string recipe = federation_.Path("soup.toml");
  EXPECT_EQ(federation_.Json({"compose", "plan", recipe})["changes"], nullptr);
  federation_.MustMotet({"compose", "apply", recipe});
  const auto before = Files(Soup());
  EXPECT_THAT(federation_.MustMotet({"compose", "plan", recipe}).out,
              HasSubstr("nothing would change"));

  const std::vector<std::string> add = {"compose", "add", "soup",
                                        "maths.example/tuned"};
  std::vector<std::string> dry = add;
  dry.emplace_back("--dry-run");
  EXPECT_THAT(
      federation_.MustMotet(dry).out,
      AllOf(HasSubstr("+ maths.example/tuned@1.0.0"),
            HasSubstr("exclusion  exact, as before"),
            HasSubstr("new here: MIT"), HasSubstr("dry run, not written")));
  EXPECT_EQ(Files(Soup()), before);
  const json added = federation_.Json(add);
  EXPECT_EQ(added["action"], "replaced");
  EXPECT_EQ(added["changes"]["added"], json({"maths.example/tuned@1.0.0"}));
  EXPECT_GT(added["changes"]["bytes_after"], added["changes"]["bytes_before"]);

  // Removed again, it is what it was, to the byte.
  const json removed =
      federation_.Json({"compose", "rm", "soup", "maths.example/tuned"});
  EXPECT_EQ(removed["changes"]["removed"], json({"maths.example/tuned@1.0.0"}));
  EXPECT_EQ(Files(Soup()), before);
  const Result none =
      federation_.Motet({"compose", "rm", "soup", "maths.example/tuned"});
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, AllOf(HasSubstr("maths.example/tuned"),
                              HasSubstr("code.example/tuned@1.0.0")));
  const Result unknown =
      federation_.Motet({"compose", "add", "soup", "nobody.example/none"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("nobody.example/none"));
  EXPECT_EQ(Files(Soup()), before);
}

TEST_F(ComposeFault, KilledTuningGoesOnAndEndsAsIfItHadNot) {
  WriteText(federation_.Path("proxy.jsonl"), Sentences("code", 40, 5));
  const std::string recipe = federation_.Path("tuned.toml");
  const std::string head =
      "name = \"soup\"\nmethod = \"btx\"\n"
      "experts = [\"code.example/tuned\", \"law.example/tuned\"]\n"
      "[btx]\nrows = \"random\"\n";
  WriteText(recipe, head +
                        "[tuning]\ndata = [\"proxy.jsonl\"]\nsteps = 60\n"
                        "batch_sequences = 2\nsequence_tokens = 32\n");
  EXPECT_THAT(federation_.MustMotet({"compose", "plan", recipe}).out,
              AllOf(HasSubstr("in the presence of demo/base@1.0.0, "
                              "code.example/tuned@1.0.0"),
                    HasSubstr("exclusion    exact")));
  federation_.MustMotet({"compose", "apply", recipe});
  const auto whole = Files(Soup());
  ASSERT_TRUE(whole.contains("rows.safetensors"));
  const std::string work = federation_.home() + "/work";
  const auto checkpoint = [&] {
    for (const auto& entry : fs::directory_iterator(work)) {
      const std::string name = entry.path().filename();
      if (name.starts_with("tune-soup-") && name.ends_with(".checkpoint")) {
        return true;
      }
    }
    return false;
  };
  EXPECT_FALSE(checkpoint()) << "of a run that is done";
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("unchanged"));
  // Made by another version: the rows serve as they are.
  const json older = json::parse(whole.at("motet.lock"));
  const std::string mark = "\"software\": " + older["software"].dump();
  std::string text = whole.at("motet.lock");
  ASSERT_NE(text.find(mark), std::string::npos);
  text.replace(text.find(mark), mark.size(), "\"software\": \"motet 0.0\"");
  WriteText(Soup() + "/motet.lock", text);
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("unchanged"));
  EXPECT_EQ(ReadText(Soup() + "/motet.lock"), text);

  // Killed after a checkpoint, it ends with the bits of one that was not.
  fs::remove_all(Soup());
  KillWithin({"compose", "apply", recipe}, checkpoint, [&](bool killed) {
    EXPECT_EQ(fs::exists(Soup()), !killed);
    fs::remove_all(Soup());
  });
  federation_.MustMotet({"compose", "apply", recipe});
  EXPECT_TRUE(Files(Soup()) == whole);
  EXPECT_FALSE(checkpoint());

  // Rows that are not the lock's: refused by what reads, made again by apply.
  WriteText(Soup() + "/rows.safetensors", "rubbish");
  const Result refused = federation_.Motet(
      {"generate", "soup", "--prompt", "a", "--max-tokens", "4"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("rows.safetensors"));
  federation_.MustMotet({"compose", "apply", recipe});
  EXPECT_TRUE(Files(Soup()) == whole);
  for (const json& proof : federation_.Json({"eval", "exclusion", "soup"})) {
    EXPECT_EQ(proof["equal"], true) << proof;
    EXPECT_NE(proof["included_sha256"], proof["excluded_sha256"]);
  }

  // Another expert: tuned again, from the text beside the first recipe.
  const json added =
      federation_.Json({"compose", "add", "soup", "maths.example/tuned"});
  EXPECT_THAT(added["changes"]["notes"].dump(),
              HasSubstr("tune them again for the new set"));
  EXPECT_TRUE(Files(Soup()).at("rows.safetensors") !=
              whole.at("rows.safetensors"));
  federation_.MustMotet({"compose", "rm", "soup", "maths.example/tuned"});
  EXPECT_TRUE(Files(Soup()).at("motet.lock") == whole.at("motet.lock"));

  // Without the section the rows go.
  WriteText(recipe, head);
  federation_.MustMotet({"compose", "apply", recipe});
  EXPECT_FALSE(fs::exists(Soup() + "/rows.safetensors"));

  WriteText(recipe, head + "[tuning]\ndata = [\"none.jsonl\"]\n");
  const Result missing = federation_.Motet({"compose", "apply", recipe});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("none.jsonl"));
  EXPECT_FALSE(fs::exists(Soup() + "/rows.safetensors"));
}

// Nor does what only refers to packages change under another apply.
TEST_F(ComposeFault, OneApplyOfANameAtATime) {
  const std::string recipe = federation_.Path("voices.toml");
  const auto write = [&](const std::string& weights) {
    WriteText(recipe,
              "name = \"soup\"\nmethod = \"ensemble\"\n"
              "experts = [\"code.example/tuned\", \"law.example/tuned\"]\n"
              "[ensemble]\nweights = \"" +
                  weights + "\"\n");
  };
  write("uniform");
  federation_.MustMotet({"compose", "apply", recipe});
  const auto before = Files(Soup());
  write("bayes");
  {
    const fs::path home = federation_.home();
    const auto held = proto::FileLock::Take(
        (home / "work" / "compose-soup").string(), "test");
    ASSERT_TRUE(held.ok()) << held.status();
    const Result refused = federation_.Motet({"compose", "apply", recipe});
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(refused.err, HasSubstr("compose-soup"));
    EXPECT_EQ(Files(Soup()), before);
    federation_.MustMotet({"compose", "apply", recipe, "--dry-run"});
  }
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("replaced"));
}

// Two at once: one of them may be told to wait, and neither undoes the other.
TEST_F(ComposeFault, ConcurrentAddsLoseNone) {
  WriteText(federation_.Path("voices.toml"),
            "name = \"soup\"\nmethod = \"ensemble\"\n"
            "experts = [\"code.example/tuned\"]\n");
  federation_.MustMotet({"compose", "apply", federation_.Path("voices.toml")});
  std::map<std::string, Process> adding;
  for (const char* owner : {"law", "maths"}) {
    adding[owner] = Process({Program("motet"), "compose", "add", "soup",
                             std::string(owner) + ".example/tuned"},
                            federation_.Path(std::string(owner) + ".log"),
                            federation_.environment());
  }
  std::vector<std::string> refused;
  for (auto& [owner, process] : adding) {
    if (process.Wait() == 0) continue;
    refused.push_back(owner);
    EXPECT_THAT(ReadText(process.log()), HasSubstr("compose-soup"));
  }
  EXPECT_LE(refused.size(), 1u);
  for (const std::string& owner : refused) {
    federation_.MustMotet({"compose", "add", "soup", owner + ".example/tuned"});
  }
  const std::string experts =
      json::parse(ReadText(Soup() + "/motet.lock"))["experts"].dump();
  EXPECT_THAT(experts,
              AllOf(HasSubstr("code.example"), HasSubstr("law.example"),
                    HasSubstr("maths.example")));
}

// Lock and recipe change together or not at all: with one of each kind
// `compose add` would have nothing to go on from.
TEST_F(ComposeFault, KilledApplyByReferenceLeavesLockAndRecipe) {
  const auto recipe = [&](const std::string& weights) {
    const std::string path = federation_.Path(weights + ".toml");
    WriteText(path,
              "name = \"soup\"\nmethod = \"ensemble\"\n"
              "experts = [\"code.example/tuned\"]\n"
              "[ensemble]\nweights = \"" +
                  weights + "\"\n");
    return path;
  };
  federation_.MustMotet({"compose", "apply", recipe("uniform")});
  const auto before = Files(Soup());
  ASSERT_EQ(before.size(), 2u);
  const std::string partial =
      federation_.home() + "/compositions/.soup.partial";
  const std::string bayes = recipe("bayes");
  KillWithin({"compose", "apply", bayes}, partial, [&](bool killed) {
    if (killed) {
      EXPECT_EQ(Files(Soup()), before);
      federation_.MustMotet(
          {"compose", "add", "soup", "law.example/tuned", "--dry-run"});
      return;
    }
    federation_.MustMotet({"compose", "apply", recipe("uniform")});
  });
  federation_.MustMotet({"compose", "apply", bayes});
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_THAT(Files(Soup()).at("recipe.toml"), HasSubstr("bayes"));
}

TEST_F(ComposeFault, ALostPackageIsFetchedOrNamed) {
  federation_.MustMotet({"compose", "apply", federation_.Path("soup.toml")});
  const json lock = json::parse(ReadText(Soup() + "/motet.lock"));
  const std::string sha256 = lock["experts"][1]["manifest_sha256"];
  const std::string folder = federation_.home() + "/packages/" + sha256;
  // What a query without the other expert is made of.
  const std::vector<std::string> query = {
      "generate",     "soup", "--prompt",  "the river",
      "--max-tokens", "4",    "--exclude", "code.example"};
  const std::string answer = federation_.MustMotet(query).out;
  fs::remove_all(folder);
  EXPECT_EQ(federation_.MustMotet(query).out, answer);  // fetched again
  EXPECT_TRUE(fs::exists(folder));
  fs::remove_all(folder);
  EXPECT_EQ(federation_.registry().Stop(), 0);
  std::vector<std::string> offline = query;
  offline.emplace_back("--offline");
  const Result lost = federation_.Motet(offline);
  EXPECT_EQ(lost.code, 1);
  EXPECT_THAT(lost.err, AllOf(HasSubstr("got "), HasSubstr("want ")));
  EXPECT_THAT(lost.err, HasSubstr(federation_.registry_address()));
}

}  // namespace
}  // namespace motet::testing
