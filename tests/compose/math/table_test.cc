// SPDX-License-Identifier: Apache-2.0
// The table itself, AdamW against numbers of PyTorch, and the choice of the
// instruction set.
#include <gtest/gtest.h>
#include <omp.h>

#include <cstdlib>
#include <set>
#include <string>

#include "compose/math/threads.h"
#include "tests/compose/math/cases.h"

namespace motet::math {
namespace {

TEST(TableTest, EveryOperatorIsDescribedOnce) {
  std::set<std::string> names;
  for (const OpInfo& op : Operators()) {
    EXPECT_TRUE(names.insert(op.name).second) << op.name;
    EXPECT_FALSE(std::string(op.formula).empty());
    EXPECT_FALSE(std::string(op.shapes).empty());
    EXPECT_FALSE(std::string(op.source).empty());
    EXPECT_EQ(&op - Operators().data(), static_cast<int>(op.id));
  }
  EXPECT_EQ(AllCases().size(), Operators().size());
}

// torch.optim.AdamW, two steps: lr 0.1, betas (0.9, 0.95), eps 1e-8,
// weight_decay 0.1; p = [1, -2], gradients [0.5, -1] and [-0.25, 2].
TEST(TableTest, AdamWIsPyTorchs) {
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    Pool pool;
    Tensor p = pool.Zeros({2}), g = pool.Zeros({2});
    Tensor m = pool.Zeros({2}), v = pool.Zeros({2});
    p.f32()[0] = 1, p.f32()[1] = -2;
    AdamWOptions options{};
    options.learning_rate = 0.1f;
    options.beta1 = 0.9f;
    options.beta2 = 0.95f;
    options.eps = 1e-8f;
    options.weight_decay = 0.1f;
    options.gradient_scale = 1.0f;
    options.step = 1;
    g.f32()[0] = 0.5f, g.f32()[1] = -1;
    kernels->adamw(p, g, m, v, options);
    options.step = 2;
    g.f32()[0] = -0.25f, g.f32()[1] = 2;
    kernels->adamw(p, g, m, v, options);
    EXPECT_NEAR(p.f32()[0], 0.8542631, 1e-6) << kernels->name;
    EXPECT_NEAR(p.f32()[1], -1.8975374, 1e-6) << kernels->name;
  }
}

TEST(TableTest, CudaFailsByNameWithoutADevice) {
  if (HasCuda()) return;
  EXPECT_EXIT(Cuda(), testing::ExitedWithCode(1), "CUDA");
}

TEST(TableTest, AnUnknownInstructionSetIsRefused) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        setenv("MOTET_CPU", "sse9", 1);
        InstructionSet();
      },
      testing::ExitedWithCode(1), "MOTET_CPU");
}

TEST(TableTest, TheInstructionSetCanBeForcedDown) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        setenv("MOTET_CPU", "avx2", 1);
        std::exit(std::string(InstructionSet()) == "avx2" ? 7 : 8);
      },
      testing::ExitedWithCode(7), "");
}

// What OpenMP says about itself in a program that begins as ours do, with
// `policy` in its environment where that is not null. Its death test's child
// is a new process; where OpenMP did not ask getenv(), it starts again and
// comes here a second time.
void ExpectWaiting(const char* policy, const char* want) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  unsetenv("GOMP_SPINCOUNT");
  unsetenv("OMP_WAIT_POLICY");
  if (policy != nullptr) setenv("OMP_WAIT_POLICY", policy, 1);
  EXPECT_EXIT(
      {
        std::vector<std::string> kept = testing::internal::GetArgvs();
        std::vector<char*> argv;
        for (std::string& arg : kept) argv.push_back(arg.data());
        argv.push_back(nullptr);
        SleepWhileWaiting(argv.data());
        omp_display_env(1);
        std::exit(7);
      },
      testing::ExitedWithCode(7), want);
  unsetenv("OMP_WAIT_POLICY");
}

TEST(TableTest, WorkersSpinAMomentAndSleep) {
  ExpectWaiting(nullptr, "OMP_WAIT_POLICY = 'PASSIVE'(.|\n)*"
                         "GOMP_SPINCOUNT = '5000'");
}

TEST(TableTest, WorkersWaitAsTheEnvironmentSays) {
  ExpectWaiting("active", "OMP_WAIT_POLICY = 'ACTIVE'(.|\n)*"
                          "GOMP_SPINCOUNT = '3");
}

TEST(TableTest, OtherVariablesAreAsTheyWere) {
  setenv("MOTET_TABLE_TEST", "a=b", 1);
  EXPECT_STREQ(std::getenv("MOTET_TABLE_TEST"), "a=b");
  EXPECT_EQ(std::getenv("MOTET_TABLE"), nullptr);
  setenv("MOTET_TABLE_TEST", "", 1);
  EXPECT_STREQ(std::getenv("MOTET_TABLE_TEST"), "");
  unsetenv("MOTET_TABLE_TEST");
  EXPECT_EQ(std::getenv("MOTET_TABLE_TEST"), nullptr);
}

}  // namespace
}  // namespace motet::math
