// SPDX-License-Identifier: Apache-2.0
// A training process is killed (-9) at steps of the parent's choosing and
// started again, until it ends; its weights must be those of a run that was
// never disturbed. The child is this program itself, started afresh, because
// threads do not survive a fork.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "compose/learn/trainer.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

constexpr int64_t kSteps = 40;

OwnerOptions Options(const std::string& checkpoint) {
  OwnerOptions options;
  options.steps = kSteps;
  options.batch_sequences = 4;
  options.sequence_tokens = 24;
  options.learning_rate = 1e-2;
  options.public_fraction = 0.25;
  options.router_z_weight = 1e-3;
  options.lm_z_weight = 1e-5;
  options.accumulation = 2;
  options.recompute_layers = 1;
  options.document_boundaries = true;
  options.evaluate_every = 5;
  options.evaluate_windows = 4;
  options.patience = 20;  // its best weights are kept all along
  options.spike_sigma = 1.5;
  options.spike_window = 6;
  options.checkpoint_path = checkpoint;
  options.checkpoint_every = checkpoint.empty() ? 0 : 3;
  return options;
}

absl::StatusOr<OwnerExpert> Train(const std::string& checkpoint,
                                  const OnProgress& progress) {
  const OwnedModel model = toy::Model(toy::Config(model::Block::kPostNorm), 5);
  const TokenWindows held_out = toy::Windows(2, 3, 24);
  return TrainOwner(*toy::Loaded(model), toy::Windows(12, 1, 24),
                    toy::Windows(12, 2, 24), Options(checkpoint), progress,
                    nullptr, &held_out);
}

// A byte a step into the pipe; waits at step `hold` (0: nowhere) for its end.
int Child(const std::string& checkpoint, int pipe, int64_t hold) {
  const auto trained = Train(checkpoint, [&](const TrainProgress& p) {
    const char step = static_cast<char>(p.step);
    if (write(pipe, &step, 1) != 1) return false;
    while (p.step == hold) pause();
    return true;
  });
  return trained.ok() ? 0 : 1;
}

// Starts the child and kills it when it reports a step >= kill_at, by when it
// may be some steps on unless it holds there. Returns the first step that it
// reported.
int64_t RunAndKill(const std::string& checkpoint, int64_t kill_at,
                   bool hold = false) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    execl("/proc/self/exe", "kill_test", "--train-child", checkpoint.c_str(),
          std::to_string(ends[1]).c_str(),
          std::to_string(hold ? kill_at : 0).c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  int64_t first = 0;
  char step = 0;
  while (read(ends[0], &step, 1) == 1) {
    if (first == 0) first = step;
    if (step >= kill_at) break;
  }
  kill(child, SIGKILL);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status)) << "the child ended before the kill";
  close(ends[0]);
  return first;
}

TEST(KillTest, KilledRunsEndWithTheSameWeights) {
  const std::string checkpoint = toy::FreshPath("killed.safetensors");
  // Before the first checkpoint, which step 3 writes.
  EXPECT_EQ(RunAndKill(checkpoint, 2, true), 1);
  EXPECT_EQ(RunAndKill(checkpoint, 8), 1);
  const int64_t second = RunAndKill(checkpoint, 21);
  EXPECT_GE(second, 7);                      // from a checkpoint
  EXPECT_GE(RunAndKill(checkpoint, 30), 19);
  const auto resumed = Train(checkpoint, nullptr);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  const auto unbroken = Train("", nullptr);
  ASSERT_TRUE(unbroken.ok()) << unbroken.status();
  EXPECT_EQ(toy::Bits(*resumed), toy::Bits(*unbroken));
}

}  // namespace
}  // namespace motet::learn

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--train-child") {
    return motet::learn::Child(argv[2], std::stoi(argv[3]),
                               std::stoi(argv[4]));
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
