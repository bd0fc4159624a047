// SPDX-License-Identifier: Apache-2.0
// A sequence's attention has the same bits whole, in chunks over a cache,
// token by token, alone or in a batch, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "tests/compose/math/cases.h"

namespace motet::math {
namespace {

struct Sequence {
  Tensor q, k, v;
};

class AttentionTest : public testing::TestWithParam<int> {
 protected:
  const cpu::Isa& best_ = cpu::Active();
  AttentionTest() {
    if (GetParam() == 0) cpu::Activate(cpu::Avx2());
  }
  ~AttentionTest() override {
    cpu::Activate(best_);
  }
  Sequence Make(int64_t rows, const HeadShape& shape, Random& random) {
    const int64_t kv = shape.kv_heads * shape.head_dim;
    return {pool_.Normal({rows, shape.heads * shape.head_dim}, random),
            pool_.Normal({rows, kv}, random),
            pool_.Normal({rows, kv}, random)};
  }
  Tensor Whole(const Sequence& s, const HeadShape& shape) {
    Tensor y = pool_.Zeros(s.q.shape);
    const Segment segment{0, s.q.rows(), 0};
    Cpu().attention(s.q, s.k, s.v, shape, {&segment, 1}, y, {});
    return y;
  }
  Pool pool_;
};

bool SameBits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.data, b.data, a.bytes()) == 0;
}

constexpr HeadShape kShapes[] = {
    {4, 2, 32}, {3, 3, 64}, {6, 2, 20}, {2, 1, 7},
    {4, 2, 32, true, 64}, {3, 3, 64, true, 1},
    {6, 2, 20, true, 97}, {2, 1, 7, true, 7}};

TEST_P(AttentionTest, ChunksOverACacheGiveTheBitsOfTheWhole) {
  Random random(1);
  for (const HeadShape& shape : kShapes) {
    const Sequence s = Make(203, shape, random);
    const Tensor whole = Whole(s, shape);
    const int64_t kv = shape.kv_heads * shape.head_dim;
    // A cache whose rows lie further apart than they are wide.
    const int64_t stride = kv + 5;
    Tensor keys = pool_.Normal({203, stride}, random);
    Tensor values = pool_.Normal({203, stride}, random);
    for (int64_t i = 0; i < 203; ++i) {
      std::memcpy(keys.f32() + i * stride, s.k.f32() + i * kv, kv * 4);
      std::memcpy(values.f32() + i * stride, s.v.f32() + i * kv, kv * 4);
    }
    for (int64_t chunk : {1, 2, 5, 63, 64, 65, 100, 203}) {
      Tensor y = pool_.Zeros(s.q.shape);
      for (int64_t past = 0; past < 203; past += chunk) {
        Segment segment;
        segment.rows = std::min<int64_t>(chunk, 203 - past);
        segment.past = past;
        segment.keys = keys.f32();
        segment.values = values.f32();
        segment.row_stride = stride;
        Cpu().attention(s.q.RowSlice(past, segment.rows), {}, {}, shape,
                        {&segment, 1}, y.RowSlice(past, segment.rows), {});
      }
      EXPECT_TRUE(SameBits(y, whole)) << "chunk " << chunk << " heads "
                                      << shape.heads;
    }
  }
}

TEST_P(AttentionTest, ManyNumbersAreNarrowedAsOne) {
  std::vector<float> x = {0.0f, -0.0f, 1.00390625f, 1.01171875f, -3.3e38f,
                          3.4e38f, 1e-40f, INFINITY, -INFINITY, NAN};
  Random random(9);
  const Tensor more = pool_.Normal({77}, random);
  x.insert(x.end(), more.f32(), more.f32() + more.size());
  std::vector<uint16_t> got(x.size());
  NarrowBf16(x.data(), static_cast<int64_t>(x.size()), got.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(got[i], NarrowBf16(x[i])) << x[i];
  }
}

TEST_P(AttentionTest, ABatchGivesTheBitsOfEachAlone) {
  Random random(2);
  std::vector<HeadShape> shapes(std::begin(kShapes), std::end(kShapes));
  for (HeadShape shape : kShapes) {
    shape.causal = false;
    shapes.push_back(shape);
  }
  for (const HeadShape& shape : shapes) {
    const int64_t lengths[] = {17, 0, 130, 64, 1};
    Sequence all = Make(212, shape, random);
    std::vector<Segment> segments;
    int64_t row = 0;
    for (int64_t length : lengths) {
      segments.push_back({row, length, 0});
      row += length;
    }
    Tensor together = pool_.Zeros(all.q.shape);
    for (int threads : {1, 2}) {
      const int before = Threads();
      SetThreads(threads);
      Cpu().attention(all.q, all.k, all.v, shape, segments, together, {});
      SetThreads(before);
      for (const Segment& s : segments) {
        const Sequence one = {all.q.RowSlice(s.row, s.rows),
                              all.k.RowSlice(s.row, s.rows),
                              all.v.RowSlice(s.row, s.rows)};
        EXPECT_TRUE(SameBits(Whole(one, shape),
                             together.RowSlice(s.row, s.rows)));
      }
    }
  }
}

TEST_P(AttentionTest, CachedAndPlainFormsAgree) {
  Random random(3);
  const HeadShape shape{6, 2, 24};
  const Sequence s = Make(90, shape, random);
  Segment segment;
  segment.rows = 30;
  segment.past = 60;
  segment.keys = s.k.f32();
  segment.values = s.v.f32();
  segment.row_stride = 48;
  const Tensor q = s.q.RowSlice(60, 30);
  Tensor got = pool_.Zeros(q.shape), want = pool_.Zeros(q.shape);
  Tensor got_lse = pool_.Zeros({30, 6}), want_lse = pool_.Zeros({30, 6});
  Cpu().attention(q, {}, {}, shape, {&segment, 1}, got, got_lse);
  Reference().attention(q, {}, {}, shape, {&segment, 1}, want, want_lse);
  for (int64_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got.f32()[i], want.f32()[i], 1e-5);
  }
  for (int64_t i = 0; i < got_lse.size(); ++i) {
    ASSERT_NEAR(got_lse.f32()[i], want_lse.f32()[i], 1e-5);
  }
}

TEST_P(AttentionTest, LaterKeysAreNotSeen) {
  Random random(4);
  const HeadShape shape{2, 2, 16};
  Sequence s = Make(100, shape, random);
  const Tensor before = Whole(s, shape);
  for (int64_t i = 50 * 32; i < 100 * 32; ++i) {
    s.k.f32()[i] = NAN;
    s.v.f32()[i] = 1e30f;
  }
  const Tensor after = Whole(s, shape);
  EXPECT_TRUE(SameBits(before.RowSlice(0, 50), after.RowSlice(0, 50)));
  EXPECT_TRUE(std::isnan(after.f32()[50 * 32]));
}

TEST_P(AttentionTest, KeysBeforeTheWindowAreNotSeen) {
  Random random(6);
  for (const int64_t window : {1, 5, 64, 65, 90}) {
    const HeadShape shape{2, 2, 16, true, window};
    Sequence s = Make(200, shape, random);
    const Tensor before = Whole(s, shape);
    const Tensor wide = Whole(s, {2, 2, 16});
    EXPECT_TRUE(SameBits(before.RowSlice(0, 1), wide.RowSlice(0, 1)));
    for (int64_t i = 0; i < 100 * 32; ++i) {
      s.k.f32()[i] = -7;
      s.v.f32()[i] = 1e30f;
    }
    const Tensor after = Whole(s, shape);
    const int64_t first = 100 + window - 1;  // sees keys 100 on
    EXPECT_TRUE(SameBits(before.RowSlice(first, 200 - first),
                         after.RowSlice(first, 200 - first)))
        << "window " << window;
    EXPECT_FALSE(window > 1 && SameBits(before.RowSlice(first - 1, 1),
                                        after.RowSlice(first - 1, 1)))
        << "window " << window;
  }
}

// A window that reaches back to the first position changes no bit.
TEST_P(AttentionTest, AWindowAsLongAsTheTextChangesNothing) {
  Random random(7);
  const HeadShape shape{4, 2, 32};
  const Sequence s = Make(150, shape, random);
  for (const int64_t window : {150, 151, 100000}) {
    EXPECT_TRUE(SameBits(Whole(s, shape), Whole(s, {4, 2, 32, true, window})));
  }
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  Random random(5);
  const HeadShape shape{1, 1, 16};
  Sequence s = Make(130, shape, random);
  for (int64_t i = 0; i < s.q.size(); ++i) s.q.f32()[i] *= 1000;
  const Tensor y = Whole(s, shape);
  for (int64_t i = 0; i < y.size(); ++i) {
    ASSERT_TRUE(std::isfinite(y.f32()[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, AttentionTest, testing::Values(0, 1),
                         [](const auto& info) {
                           return info.param == 0 ? "avx2" : "best";
                         });

// With bf16 products a cache holds bf16: what the products round to anyway.
// Shapes: lines of a single row that are multiplied in place (up to four a
// key-value head, heads of whole panels) and that are packed.
TEST(AttentionBf16Test, ACacheInBf16GivesTheBitsOfTheWhole) {
  if (!HasBf16()) GTEST_SKIP() << "this processor has no bf16 products";
  Pool pool;
  Random random(8);
  for (HeadShape shape :
       {HeadShape{3, 3, 64}, HeadShape{4, 1, 48}, HeadShape{6, 1, 32},
        HeadShape{4, 2, 20}, HeadShape{2, 2, 16, true, 97}}) {
    shape.product = Product::kBf16;
    const int64_t kv = shape.kv_heads * shape.head_dim;
    const Sequence s = {
        pool.Normal({203, shape.heads * shape.head_dim}, random),
        pool.Normal({203, kv}, random), pool.Normal({203, kv}, random)};
    const Tensor whole = pool.Zeros(s.q.shape);
    const Segment all{0, 203, 0};
    Cpu().attention(s.q, s.k, s.v, shape, {&all, 1}, whole, {});
    std::vector<uint16_t> keys(203 * kv), values(203 * kv);
    NarrowBf16(s.k.f32(), 203 * kv, keys.data());
    NarrowBf16(s.v.f32(), 203 * kv, values.data());
    for (int64_t chunk : {1, 3, 64, 100}) {
      Tensor y = pool.Zeros(s.q.shape);
      for (int64_t past = 0; past < 203; past += chunk) {
        Segment segment;
        segment.rows = std::min<int64_t>(chunk, 203 - past);
        segment.past = past;
        segment.keys = keys.data();
        segment.values = values.data();
        segment.row_stride = kv;
        segment.dtype = DType::kBF16;
        Cpu().attention(s.q.RowSlice(past, segment.rows), {}, {}, shape,
                        {&segment, 1}, y.RowSlice(past, segment.rows), {});
      }
      EXPECT_TRUE(SameBits(y, whole))
          << "chunk " << chunk << " heads " << shape.heads << "/"
          << shape.kv_heads << " of " << shape.head_dim;
    }
  }
}

}  // namespace
}  // namespace motet::math
