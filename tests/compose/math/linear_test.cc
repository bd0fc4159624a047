// SPDX-License-Identifier: Apache-2.0
// The promises of Product::kExact: a row's bits depend on its row, the weight
// and C alone - not on M, N, threads or instruction set. And of kLibrary:
// same shapes and threads, same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "compose/math/cpu/isa.h"
#include "tests/compose/math/cases.h"

namespace motet::math {
namespace {

std::vector<const cpu::Isa*> Sets() {
  std::vector<const cpu::Isa*> sets = {&cpu::Avx2()};
  if (cpu::HasAvx512()) sets.push_back(&cpu::Avx512());
  return sets;
}

class LinearTest : public testing::Test {
 protected:
  ~LinearTest() override {
    cpu::Activate(*Sets().back());
    SetThreads(threads_);
  }
  Tensor Narrow(const Tensor& w) {
    Tensor narrow = pool_.Zeros(w.shape, DType::kBF16);
    for (int64_t i = 0; i < w.size(); ++i) {
      static_cast<uint16_t*>(narrow.data)[i] = NarrowBf16(w.f32()[i]);
    }
    return narrow;
  }
  Pool pool_;
  const int threads_ = Threads();
};

bool SameBits(const Tensor& a, const Tensor& b) {
  return a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

// The documented order, in plain words: 16 lanes by fused multiply-add, then
// the tree +8, +4, +2, +1.
float InOrder(const float* x, const float* w, int64_t cols) {
  float lane[16] = {};
  for (int64_t c = 0; c < (cols + 15) / 16 * 16; ++c) {
    const float a = c < cols ? x[c] : 0, b = c < cols ? w[c] : 0;
    lane[c % 16] = std::fma(a, b, lane[c % 16]);
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
  }
  return lane[0];
}

TEST_F(LinearTest, ExactProductSumsInTheDocumentedOrder) {
  Random random(1);
  for (int64_t cols : {1, 15, 16, 17, 48, 100, 193}) {
    const Tensor x = pool_.Normal({70, cols}, random);
    const Tensor w = pool_.Normal({53, cols}, random);
    Tensor want = pool_.Zeros({70, 53});
    for (int64_t m = 0; m < 70; ++m) {
      for (int64_t n = 0; n < 53; ++n) {
        want.f32()[m * 53 + n] =
            InOrder(x.f32() + m * cols, w.f32() + n * cols, cols);
      }
    }
    for (const cpu::Isa* isa : Sets()) {
      cpu::Activate(*isa);
      for (int threads : {1, 2}) {
        SetThreads(threads);
        for (int64_t rows = 1; rows <= 70; ++rows) {
          // The last rows, so that a row lies elsewhere in its tile each time.
          Tensor y = pool_.Zeros({rows, 53});
          Cpu().linear(x.RowSlice(70 - rows, rows), w, y, Product::kExact);
          ASSERT_TRUE(SameBits(y, want.RowSlice(70 - rows, rows)))
              << isa->name << " M " << rows << " C " << cols << " threads "
              << threads;
        }
      }
    }
  }
}

TEST_F(LinearTest, Bf16WeightsGiveTheBitsOfTheirWidenedValues) {
  Random random(2);
  for (int64_t cols : {7, 64, 131}) {
    const Tensor narrow = Narrow(pool_.Normal({37, cols}, random));
    Tensor wide = pool_.Zeros({37, cols});
    for (int64_t i = 0; i < wide.size(); ++i) {
      wide.f32()[i] = WidenBf16(narrow.bf16()[i]);
    }
    for (const cpu::Isa* isa : Sets()) {
      cpu::Activate(*isa);
      for (int64_t rows : {1, 2, 3, 4, 5, 33}) {
        const Tensor x = pool_.Normal({rows, cols}, random);
        Tensor a = pool_.Zeros({rows, 37}), b = pool_.Zeros({rows, 37});
        Cpu().linear(x, narrow, a, Product::kExact);
        Cpu().linear(x, wide, b, Product::kExact);
        EXPECT_TRUE(SameBits(a, b)) << isa->name << rows;
      }
    }
  }
}

TEST_F(LinearTest, OutputsDoNotDependOnTheirNeighbours) {
  Random random(3);
  const Tensor x = pool_.Normal({19, 80}, random);
  const Tensor w = pool_.Normal({300, 80}, random);
  Tensor all = pool_.Zeros({19, 300});
  Cpu().linear(x, w, all, Product::kExact);
  for (int64_t n = 0; n < 300; n += 7) {
    Tensor one = pool_.Zeros({19, 1});
    Cpu().linear(x, w.RowSlice(n, 1), one, Product::kExact);
    for (int64_t m = 0; m < 19; ++m) {
      ASSERT_EQ(one.f32()[m], all.f32()[m * 300 + n]);
    }
  }
}

TEST_F(LinearTest, LibraryGivesTheSameBitsRunToRun) {
  Random random(4);
  const Tensor x = pool_.Normal({200, 192}, random);
  const Tensor w = pool_.Normal({512, 192}, random);
  const Tensor dy = pool_.Normal({200, 512}, random);
  for (int threads : {1, 2}) {
    SetThreads(threads);
    Tensor y, dx, dw;
    for (int run = 0; run < 5; ++run) {
      Tensor y2 = pool_.Zeros({200, 512});
      Tensor dx2 = pool_.Zeros(x.shape), dw2 = pool_.Zeros(w.shape);
      Cpu().linear(x, w, y2, Product::kLibrary);
      Cpu().linear_backward(x, w, dy, dx2, dw2);
      if (run > 0) {
        EXPECT_TRUE(SameBits(y, y2));
        EXPECT_TRUE(SameBits(dx, dx2));
        EXPECT_TRUE(SameBits(dw, dw2));
      }
      y = y2, dx = dx2, dw = dw2;
    }
  }
}

TEST_F(LinearTest, NotANumberComesThrough) {
  Random random(5);
  for (int64_t rows : {1, 9}) {
    Tensor x = pool_.Normal({rows, 33}, random);
    x.f32()[32] = NAN;
    const Tensor w = pool_.Normal({5, 33}, random);
    Tensor y = pool_.Zeros({rows, 5});
    Cpu().linear(x, w, y, Product::kExact);
    for (int64_t n = 0; n < 5; ++n) EXPECT_TRUE(std::isnan(y.f32()[n]));
    if (rows > 1) {
      EXPECT_FALSE(std::isnan(y.f32()[5]));
    }
  }
}

}  // namespace
}  // namespace motet::math
