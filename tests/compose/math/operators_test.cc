// SPDX-License-Identifier: Apache-2.0
// Tests that iterate the operator table: gradients against finite
// differences, fast forms against the plain ones, bits across instruction
// sets and thread counts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compose/math/cpu/isa.h"
#include "tests/compose/math/cases.h"

namespace motet::math {
namespace {

std::vector<const cpu::Isa*> Sets() {
  std::vector<const cpu::Isa*> sets = {&cpu::Avx2()};
  if (cpu::HasAvx512()) sets.push_back(&cpu::Avx512());
  if (cpu::HasAvx512Bf16()) {
    sets.push_back(&cpu::Avx512Bf16(true));
    sets.push_back(&cpu::Avx512Bf16(false));
  }
  return sets;
}

class OperatorTest : public testing::TestWithParam<int> {
 protected:
  OperatorTest() : maker_(AllCases()[GetParam()]) {}
  ~OperatorTest() override {
    cpu::Activate(*Sets().back());
    SetThreads(threads_);
  }
  void Make(uint64_t seed, Case& c) const {
    Random random(seed * 1000 + GetParam());
    maker_.make(random, c);
  }
  const CaseMaker maker_;
  const int threads_ = Threads();
};

double Largest(const Numbers& numbers) {
  double largest = 0;
  for (double n : numbers) largest = std::max(largest, std::abs(n));
  return largest;
}

// A cotangent for the differentiable outputs: for the losses the value only
// (what follows it is told, not differentiated), for choices the weights only.
Numbers Cotangent(OpId id, const Numbers& out, const Case& c, Random& random) {
  Numbers g(out.size(), 0.0);
  size_t used = out.size();
  if (id == OpId::kCrossEntropy || id == OpId::kHeadLoss ||
      id == OpId::kLoadBalance) {
    used = 1;
  }
  if (id == OpId::kTopK || id == OpId::kTopP || id == OpId::kNullTopK ||
      id == OpId::kCapacity) {
    used /= 2;
  }
  for (size_t i = 0; i < used; ++i) g[i] = random.Normal();
  return g;
}

double Against(const Numbers& out, const Numbers& g) {
  double sum = 0;
  for (size_t i = 0; i < out.size(); ++i) sum += out[i] * g[i];
  return sum;
}

void ExpectGradients(const Kernels& kernels, OpId id, Case& c,
                     Random& random) {
  const Numbers out = c.forward(kernels, c);
  if (out.empty()) return;
  const Numbers g = Cotangent(id, out, c, random);
  std::vector<Tensor> d;
  for (const Tensor& input : c.inputs) {
    Tensor start = c.pool.Zeros(input.shape);
    // Gradients accumulate: start from one, not from zero.
    std::fill_n(start.f32(), start.size(), 1.0f);
    d.push_back(start);
  }
  c.backward(kernels, c, g, d);
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    Tensor input = c.inputs[i];
    const Numbers all = [&] {
      Numbers n;
      Append(d[i], n);
      for (double& value : n) value -= 1;
      return n;
    }();
    const double scale = std::max(1.0, Largest(all));
    for (int probe = 0; probe < 10 && input.size() > 0; ++probe) {
      const int64_t at = random.Int(0, input.size() - 1);
      const float kept = input.f32()[at];
      const float step = static_cast<float>(c.step);
      // Fourth order: f32 outputs forbid small steps.
      auto value = [&](float shift) {
        input.f32()[at] = kept + shift;
        return Against(c.forward(kernels, c), g);
      };
      const double near = value(step) - value(-step);
      const double far = value(2 * step) - value(-2 * step);
      input.f32()[at] = kept;
      const double slope = (8 * near - far) / (12 * step);
      ASSERT_NEAR(all[at], slope, c.tolerance * scale)
          << kernels.name << " input " << i << " at " << at;
    }
  }
}

TEST_P(OperatorTest, GradientsAreFiniteDifferences) {
  Case first;
  Make(1, first);
  ASSERT_EQ(maker_.info.has_backward, first.backward != nullptr);
  if (!maker_.info.has_backward) return;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    for (const Kernels* kernels : {&Reference(), &Cpu()}) {
      SCOPED_TRACE(testing::Message() << "seed " << seed);
      Case c;
      Make(seed, c);
      Random random(seed);
      ExpectGradients(*kernels, maker_.info.id, c, random);
      if (HasFatalFailure()) return;
    }
  }
}

struct Results {
  Numbers out;
  std::vector<Numbers> gradients;
};

Results RunCase(const Kernels& kernels, OpId id, Case& c, uint64_t seed) {
  Results r;
  r.out = c.forward(kernels, c);
  if (c.backward == nullptr || r.out.empty()) return r;
  Random random(seed);
  const Numbers g = Cotangent(id, r.out, c, random);
  std::vector<Tensor> d;
  for (const Tensor& input : c.inputs) {
    d.push_back(c.pool.Normal(input.shape, random));
  }
  c.backward(kernels, c, g, d);
  for (const Tensor& t : d) {
    r.gradients.emplace_back();
    Append(t, r.gradients.back());
  }
  return r;
}

void ExpectNear(const Numbers& got, const Numbers& want, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  const double bound = 2e-5 * std::max(1.0, Largest(want));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], bound) << what << " " << i;
  }
}

TEST_P(OperatorTest, FastFormsAgreeWithThePlainOne) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Case plain;
    Make(seed, plain);
    const Results want = RunCase(Reference(), maker_.info.id, plain, seed);
    for (const cpu::Isa* isa : Sets()) {
      SCOPED_TRACE(testing::Message() << isa->name << " seed " << seed);
      cpu::Activate(*isa);
      Case c;
      Make(seed, c);
      const Results got = RunCase(Cpu(), maker_.info.id, c, seed);
      ExpectNear(got.out, want.out, "output");
      ASSERT_EQ(got.gradients.size(), want.gradients.size());
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        ExpectNear(got.gradients[i], want.gradients[i], "gradient");
      }
      if (HasFatalFailure()) return;
    }
  }
}

// The library's products may differ between sets; everything of ours, and
// the library at a fixed thread count, may not.
TEST_P(OperatorTest, BitsDoNotDependOnSetOrThreads) {
  // Half of linear's cases go to the library; linear_test.cc compares ours.
  if (maker_.info.id == OpId::kLinear) return;
  for (uint64_t seed = 100; seed < 120; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Results first;
    for (const cpu::Isa* isa : Sets()) {
      cpu::Activate(*isa);
      for (int threads : {1, 2, 3}) {
        SetThreads(threads);
        Case c;
        Make(seed, c);
        Results r = RunCase(Cpu(), maker_.info.id, c, seed);
        if (first.out.empty()) {
          first = std::move(r);
        } else {
          ASSERT_EQ(r.out, first.out) << isa->name << threads;
          ASSERT_EQ(r.gradients, first.gradients) << isa->name << threads;
        }
      }
    }
  }
}

// Frozen inputs: an empty gradient is skipped, the others do not change.
TEST_P(OperatorTest, EmptyGradientsAreSkipped) {
  if (!maker_.info.has_backward) return;
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    Case c;
    Make(7, c);
    const Numbers out = c.forward(*kernels, c);
    Random random(7);
    const Numbers g = Cotangent(maker_.info.id, out, c, random);
    auto zeros = [&] {
      std::vector<Tensor> d;
      for (const Tensor& t : c.inputs) d.push_back(c.pool.Zeros(t.shape));
      return d;
    };
    std::vector<Tensor> all = zeros();
    c.backward(*kernels, c, g, all);
    for (size_t i = 0; i < c.inputs.size(); ++i) {
      std::vector<Tensor> d = zeros();
      d[i] = Tensor{};
      c.backward(*kernels, c, g, d);
      for (size_t j = 0; j < d.size(); ++j) {
        if (j == i) continue;
        Numbers got, want;
        Append(d[j], got);
        Append(all[j], want);
        EXPECT_EQ(got, want) << kernels->name << " " << i << " " << j;
      }
    }
  }
}

// The gradients that Exec asks FirstGradient for.
std::vector<size_t> FreshInputs(OpId id, const Case& c) {
  switch (id) {
    case OpId::kLinear:
    case OpId::kHeadLoss:
    case OpId::kAttention:
    case OpId::kSwiGlu: {
      std::vector<size_t> all(c.inputs.size());
      std::iota(all.begin(), all.end(), 0);
      return all;
    }
    case OpId::kDropout:
    case OpId::kRmsNorm:
    case OpId::kRope:
      return {0};
    // With a bias or a sum the case adds up what the kernel gives.
    case OpId::kGelu:
      return c.inputs.size() == 1 ? std::vector<size_t>{0}
                                  : std::vector<size_t>{};
    case OpId::kLayerNorm:
      return c.inputs.size() == 3 ? std::vector<size_t>{0}
                                  : std::vector<size_t>{};
    default:
      return {};
  }
}

TEST_P(OperatorTest, FreshGradientsAreWritten) {
  if (!maker_.info.has_backward) return;
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE(testing::Message() << kernels->name << " seed " << seed);
      Case c;
      Make(seed, c);
      const std::vector<size_t> fresh = FreshInputs(maker_.info.id, c);
      if (fresh.empty() || c.inputs[0].rows() == 0) continue;
      const Numbers out = c.forward(*kernels, c);
      Random random(seed);
      const Numbers g = Cotangent(maker_.info.id, out, c, random);
      std::vector<Tensor> added, written;
      for (const Tensor& t : c.inputs) {
        added.push_back(c.pool.Zeros(t.shape));
        written.push_back(c.pool.Zeros(t.shape));
      }
      for (size_t i : fresh) {
        written[i].fresh = true;
        std::fill_n(written[i].f32(), written[i].size(), std::nanf(""));
      }
      c.backward(*kernels, c, g, added);
      c.backward(*kernels, c, g, written);
      for (size_t i = 0; i < added.size(); ++i) {
        Numbers got, want;
        Append(written[i], got);
        Append(added[i], want);
        ASSERT_EQ(got, want) << "input " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, OperatorTest,
    testing::Range(0, static_cast<int>(Operators().size())),
    [](const auto& info) {
      return std::string(Operators()[info.param].name);
    });

}  // namespace
}  // namespace motet::math
