// SPDX-License-Identifier: Apache-2.0
// The promises of Product::kExact: a row's bits depend on its row, the weight
// and C alone - not on M, N, threads or instruction set. Of kBf16: the same,
// on the one set that has it. And of kLibrary: same shapes and threads, same
// bits.
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
  if (cpu::HasAvx512Bf16()) {
    sets.push_back(&cpu::Avx512Bf16(true));
    sets.push_back(&cpu::Avx512Bf16(false));
  }
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

// The documented order, in plain words: c ascending, by fused multiply-add.
float InOrder(const float* x, const float* w, int64_t cols) {
  float sum = 0;
  for (int64_t c = 0; c < cols; ++c) sum = std::fma(x[c], w[c], sum);
  return sum;
}

TEST_F(LinearTest, ExactProductSumsInTheDocumentedOrder) {
  Random random(1);
  for (int64_t cols : {1, 3, 15, 16, 17, 100, 255, 256, 257, 600}) {
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

TEST_F(LinearTest, NarrowWeightsGiveTheBitsOfTheirWidenedValues) {
  Random random(2);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (int64_t cols : {1, 7, 8, 64, 131, 530}) {
      // f16 bits of any kind but infinities and NaN.
      Tensor narrow = pool_.Zeros({37, cols}, dtype);
      Tensor wide = pool_.Zeros({37, cols});
      for (int64_t i = 0; i < wide.size(); ++i) {
        uint16_t& bits = static_cast<uint16_t*>(narrow.data)[i];
        bits = dtype == DType::kBF16
                   ? NarrowBf16(static_cast<float>(random.Int(-99, 99)) / 7)
                   : static_cast<uint16_t>(random.Int(0, 1) << 15 |
                                           random.Int(0, 0x47ff));
        wide.f32()[i] = dtype == DType::kBF16 ? WidenBf16(bits)
                                              : WidenF16(bits);
      }
      for (const cpu::Isa* isa : Sets()) {
        cpu::Activate(*isa);
        for (int64_t rows : {1, 2, 3, 4, 5, 17, 33}) {
          const Tensor x = pool_.Normal({rows, cols}, random);
          const Tensor dy = pool_.Normal({rows, 37}, random);
          Tensor a = pool_.Zeros({rows, 37}), b = pool_.Zeros({rows, 37});
          Tensor da = pool_.Zeros(x.shape), db = pool_.Zeros(x.shape);
          Cpu().linear(x, narrow, a, Product::kExact);
          Cpu().linear(x, wide, b, Product::kExact);
          EXPECT_TRUE(SameBits(a, b)) << isa->name << rows;
          Cpu().linear_backward(x, narrow, dy, da, {}, Product::kExact);
          Cpu().linear_backward(x, wide, dy, db, {}, Product::kExact);
          EXPECT_TRUE(SameBits(da, db)) << isa->name << rows;
        }
      }
    }
  }
}

// bf16 sums two products a step; the processor rounds each addition once.
TEST_F(LinearTest, Bf16ProductIsTheProductOfRoundedOperands) {
  if (!HasBf16()) GTEST_SKIP() << "no bf16 instructions here";
  Random random(6);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int64_t cols : {1, 2, 7, 8, 33, 255, 256, 257, 700}) {
      const Tensor wide = pool_.Normal({37, cols}, random);
      Tensor w = wide;
      if (dtype == DType::kBF16) w = Narrow(wide);
      if (dtype == DType::kF16) {
        w = pool_.Zeros(wide.shape, dtype);
        for (int64_t i = 0; i < w.size(); ++i) {
          static_cast<uint16_t*>(w.data)[i] = 0x3c00 + random.Int(0, 500);
        }
      }
      for (int64_t rows : {1, 4, 15, 16, 17, 40}) {
        const Tensor x = pool_.Normal({rows, cols}, random);
        const Tensor dy = pool_.Normal({rows, 37}, random);
        Tensor y[2], dx[2], dw[2];
        const Kernels* kernels[] = {&Reference(), &Cpu()};
        for (int i = 0; i < 2; ++i) {
          y[i] = pool_.Zeros({rows, 37});
          dx[i] = pool_.Zeros(x.shape);
          dw[i] = pool_.Zeros(w.shape);
          kernels[i]->linear(x, w, y[i], Product::kBf16);
          kernels[i]->linear_backward(x, w, dy, dx[i], dw[i], Product::kBf16);
        }
        const auto close = [&](const Tensor& a, const Tensor& b) {
          double worst = 0, scale = 0;
          for (int64_t i = 0; i < a.size(); ++i) {
            worst = std::max(worst, std::fabs(double{a.f32()[i]} -
                                              double{b.f32()[i]}));
            scale = std::max(scale, std::fabs(double{a.f32()[i]}));
          }
          return worst <= 1e-5 * scale;
        };
        EXPECT_TRUE(close(y[0], y[1])) << Name(dtype) << cols << " " << rows;
        EXPECT_TRUE(close(dx[0], dx[1])) << Name(dtype) << cols << " " << rows;
        EXPECT_TRUE(close(dw[0], dw[1])) << Name(dtype) << cols << " " << rows;
      }
    }
  }
}

TEST_F(LinearTest, Bf16RowsDoNotDependOnTheirNeighbours) {
  if (!HasBf16()) GTEST_SKIP() << "no bf16 instructions here";
  Random random(7);
  for (int64_t cols : {31, 300, 768}) {
    const Tensor x = pool_.Normal({70, cols}, random);
    const Tensor w = Narrow(pool_.Normal({150, cols}, random));
    Tensor all = pool_.Zeros({70, 150});
    Cpu().linear(x, w, all, Product::kBf16);
    for (int threads : {1, 2}) {
      SetThreads(threads);
      for (int64_t rows = 1; rows <= 70; ++rows) {
        Tensor y = pool_.Zeros({rows, 150});
        Cpu().linear(x.RowSlice(70 - rows, rows), w, y, Product::kBf16);
        ASSERT_TRUE(SameBits(y, all.RowSlice(70 - rows, rows))) << rows;
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

TEST_F(LinearTest, SeveralAtOnceGiveTheBitsOfEachAlone) {
  Random random(8);
  for (const Product product : {Product::kExact, Product::kBf16}) {
    if (product == Product::kBf16 && !HasBf16()) continue;
    for (int round = 0; round < 40; ++round) {
      std::vector<LinearTask> tasks;
      const int64_t count = random.Int(0, 9);
      Tensor x;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t cols = x.empty() ? random.Int(1, 300) : x.cols();
        if (i % 3 == 0) x = pool_.Normal({random.Int(0, 70), cols}, random);
        const Tensor w = pool_.Normal({random.Int(1, 400), cols}, random);
        tasks.push_back({x, w, pool_.Zeros({x.rows(), w.rows()})});
      }
      SetThreads(static_cast<int>(random.Int(1, 2)));
      Cpu().linears(tasks, product);
      for (const LinearTask& t : tasks) {
        Tensor y = pool_.Zeros(t.y.shape);
        Cpu().linear(t.x, t.w, y, product);
        ASSERT_TRUE(SameBits(y, t.y)) << t.x.rows() << " " << t.w.rows();
      }
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
      Cpu().linear_backward(x, w, dy, dx2, dw2, Product::kLibrary);
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
