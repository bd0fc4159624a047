// SPDX-License-Identifier: Apache-2.0
// motet-registry as a process: settings, readiness, signals, and death in the
// middle of a publish at every fault point.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/files.h"
#include "registry/client.h"
#include "registry/config.h"
#include "registry/fault.h"
#include "tests/registry/fixture.h"

extern char** environ;

namespace motet::registry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kId[] = "alto.example/cantus@1.0.0";

// The program beside the tests, or where MOTET_BIN says.
std::string Program() {
  if (const char* bin = getenv("MOTET_BIN")) {
    return absl::StrCat(bin, "/motet-registry");
  }
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() /
          "../motet-registry")
      .string();
}

class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!proto::Exists(Program())) {
      GTEST_SKIP() << Program() << " has not been built";
    }
    const Member registry = federation_.Server("registry");
    config_ = folder_ / "registry.toml";
    WriteFile(
        config_,
        absl::StrCat("federation = \"choir\"\n"
                     "address = \"127.0.0.1:0\"\n"
                     "data = \"data\"\n",
                     "authority = \"", registry.tls.authority, "\"\n",
                     "certificate = \"", registry.tls.certificate, "\"\n",
                     "private_key = \"", registry.tls.private_key, "\"\n"));
  }
  void TearDown() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
  }

  // Starts the program; its output goes to files in the test's folder.
  void Start(std::vector<std::string> arguments,
             const std::vector<std::string>& variables = {}) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::string out = folder_ / "out", err = folder_ / "err";
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0644);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0644);
    std::string program = Program();
    std::vector<char*> argv = {program.data()};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::vector<std::string> kept = variables;
    std::vector<char*> environment;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      environment.push_back(*variable);
    }
    for (std::string& variable : kept) environment.push_back(variable.data());
    environment.push_back(nullptr);
    ASSERT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr,
                          argv.data(), environment.data()),
              0);
    posix_spawn_file_actions_destroy(&actions);
  }
  // The exit code, or minus the signal.
  int Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int RunToEnd(std::vector<std::string> arguments,
               const std::vector<std::string>& variables = {}) {
    Start(std::move(arguments), variables);
    return Wait();
  }
  // Serves; returns the address once the port file is there.
  std::string Serve(const std::vector<std::string>& variables = {}) {
    const std::string port_file = folder_ / "port";
    std::filesystem::remove(port_file);
    Start({"run", "--config", config_, "--port-file", port_file}, variables);
    while (!proto::Exists(port_file)) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        ADD_FAILURE() << "it ended: " << Err();
        return "";
      }
      usleep(1000);
    }
    const std::string port = ReadFile(port_file);
    return absl::StrCat("127.0.0.1:", port.substr(0, port.find('\n')));
  }
  std::string Out() { return ReadFile(folder_ / "out"); }
  std::string Err() { return ReadFile(folder_ / "err"); }

  Federation federation_;
  TempFolder folder_;
  Member alto_ = federation_.Node("alto.example");
  std::string config_;
  pid_t pid_ = -1;
};

TEST_F(ProgramTest, HelpAndUsage) {
  EXPECT_EQ(RunToEnd({"--help"}), 0);
  EXPECT_THAT(Out(), AllOf(HasSubstr("run"), HasSubstr("check")));
  EXPECT_EQ(RunToEnd({"run", "--help"}), 0);
  EXPECT_THAT(Out(), AllOf(HasSubstr("--address"), HasSubstr("--port-file")));
  EXPECT_EQ(RunToEnd({}), 2);
  EXPECT_EQ(RunToEnd({"run", "--nonsense"}), 2);
}

TEST_F(ProgramTest, CheckShowsWhereEachSettingComesFrom) {
  EXPECT_EQ(RunToEnd({"check", "--config", config_, "--data", "/elsewhere"},
                     {"MOTET_REGISTRY_ADDRESS=127.0.0.1:1234"}),
            0)
      << Err();
  EXPECT_THAT(Out(), AllOf(HasSubstr("/elsewhere"), HasSubstr("(--data)"),
                           HasSubstr("127.0.0.1:1234"),
                           HasSubstr("(MOTET_REGISTRY_ADDRESS)"),
                           HasSubstr(absl::StrCat("(", config_, ")"))));
  EXPECT_FALSE(proto::Exists("/elsewhere"));
}

TEST_F(ProgramTest, BadSettingsAreAllNamed) {
  WriteFile(config_, "federatoin = \"choir\"\naddress = 7\n");
  EXPECT_EQ(RunToEnd({"run", "--config", config_}), 1);
  EXPECT_THAT(Err(), AllOf(HasSubstr("unknown key \"federatoin\""),
                           HasSubstr("address that is not a string"),
                           HasSubstr("no federation"), HasSubstr("no data")));
  WriteFile(config_, "federation = [\n");
  EXPECT_EQ(RunToEnd({"run", "--config", config_}), 1);
  EXPECT_THAT(Err(), HasSubstr("want TOML"));
  EXPECT_EQ(RunToEnd({"run", "--config", folder_ / "none.toml"}), 1);
  EXPECT_THAT(Err(), HasSubstr("none.toml"));
}

TEST_F(ProgramTest, ServesSaysSoAndEndsOnSigterm) {
  const std::string address = Serve();
  const std::string package = WritePackage(folder_ / "package", kId, alto_,
                                           {{"weights", Noise(2'000'000, 1)}});
  auto client = Client::Make(address, alto_.tls);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto published = (*client)->Publish(package, kId, {});
  ASSERT_TRUE(published.ok()) << published.status();
  ASSERT_EQ(kill(pid_, SIGTERM), 0);
  EXPECT_EQ(Wait(), 0) << Err();
  EXPECT_EQ(Out(),
            absl::StrCat("motet-registry: serving choir on ", address, "\n"));
  EXPECT_THAT(Err(), HasSubstr(absl::StrCat("published ", kId)));
  EXPECT_TRUE(proto::Exists(folder_ / "data/layout"));  // beside the file
}

TEST_F(ProgramTest, SecondRegistryOnTheSameDataIsRefused) {
  Serve();
  const pid_t first = pid_;
  EXPECT_EQ(RunToEnd({"run", "--config", config_}), 1);
  EXPECT_THAT(Err(), HasSubstr("held by another process"));
  pid_ = first;
}

// Killed in the middle of a publish: the publisher sees Unavailable; after a
// restart nothing is half-visible, and the same call completes.
TEST_F(ProgramTest, PublishCompletesAfterKillAtEveryPoint) {
  const std::vector<std::string> points = {absl::StrCat(kFaultAfterChunk, ":2"),
                                           kFaultBeforeCommit,
                                           kFaultAfterCommit};
  for (size_t i = 0; i < points.size(); ++i) {
    SCOPED_TRACE(points[i]);
    const std::string id = absl::StrCat("alto.example/cantus@1.0.", i);
    const std::string package =
        WritePackage(folder_ / absl::StrCat("package", i), id, alto_,
                     {{"weights", Noise(3'000'000, static_cast<uint32_t>(i))}});
    std::string address = Serve({absl::StrCat("MOTET_FAULT=", points[i])});
    auto client = Client::Make(address, alto_.tls);
    const auto broken = (*client)->Publish(package, id, {});
    EXPECT_EQ(broken.status().code(), absl::StatusCode::kUnavailable)
        << broken.status();
    EXPECT_EQ(Wait(), -SIGKILL);

    address = Serve();
    client = Client::Make(address, alto_.tls);
    const bool committed = points[i] == kFaultAfterCommit;
    EXPECT_EQ((*client)->Inspect(id).ok(), committed);
    EXPECT_EQ((*client)->Log(0)->size(), i + (committed ? 1 : 0));
    int sent = 0;
    PublishOptions options;
    options.progress = [&](uint64_t, uint64_t) { return ++sent > 0; };
    const auto published = (*client)->Publish(package, id, options);
    ASSERT_TRUE(published.ok()) << published.status();
    EXPECT_EQ(published->already_published(), committed);
    // Five chunks (three of weights, manifest, signature), less those kept.
    EXPECT_EQ(sent, i == 0 ? 3 : 0);
    EXPECT_EQ((*client)->Log(0)->size(), i + 1);
    const std::string target = folder_ / absl::StrCat("fetched", i);
    ASSERT_TRUE((*client)->Fetch(id, target, nullptr).ok());
    EXPECT_EQ(ReadFolder(target), ReadFolder(package));
    ASSERT_EQ(kill(pid_, SIGTERM), 0);
    EXPECT_EQ(Wait(), 0);
  }
}

}  // namespace
}  // namespace motet::registry
