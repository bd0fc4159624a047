// SPDX-License-Identifier: Apache-2.0
// Streams of merges on random tensors: identities, and that neither threads
// nor pieces nor other models change a bit.
#include "compose/assemble/merge.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compose/assemble/merge_kinds.h"
#include "compose/assemble/merge_select.h"
#include "compose/math/exec.h"
#include "gtest/gtest.h"

namespace motet::assemble {
namespace {

using math::DType;
using math::Tensor;

// Larger than a batch of pieces, and not a multiple of one.
constexpr int64_t kLarge = (int64_t{1} << 21) + 12345;

class MergeTest : public testing::Test {
 protected:
  Tensor New(int64_t n, double scale, DType dtype = DType::kF32) {
    std::normal_distribution<float> normal(0, static_cast<float>(scale));
    auto& block = numbers_.emplace_back(std::make_unique<float[]>(n));
    for (int64_t i = 0; i < n; ++i) {
      const float x = normal(random_);
      if (dtype == DType::kF32) {
        block[i] = x;
      } else {
        reinterpret_cast<uint16_t*>(block.get())[i] =
            dtype == DType::kBF16 ? math::NarrowBf16(x) : math::NarrowF16(x);
      }
    }
    Tensor t;
    t.data = block.get();
    t.dtype = dtype;
    t.shape = {n};
    return t;
  }
  std::vector<MergeTensor> Random(size_t models, const MergeKindRow& row,
                                  DType dtype = DType::kF32,
                                  int64_t n = 70000) {
    std::vector<MergeTensor> tensors;
    for (const auto& [name, size] :
         {std::pair{"large", n}, {"small", int64_t{5}}}) {
      MergeTensor t;
      t.name = name;
      t.base = New(size, 1, dtype);
      for (size_t j = 0; j < models; ++j) {
        t.models.push_back(New(size, 1, dtype));
        if (row.kind != MergeKind::kFisher) continue;
        t.fishers.push_back(New(size, 1));
        for (int64_t i = 0; i < size; ++i) {
          float& f = t.fishers.back().f32()[i];
          f = f * f;
        }
      }
      tensors.push_back(std::move(t));
    }
    return tensors;
  }
  static MergeRule RuleFor(const MergeKindRow& row, size_t models) {
    MergeRule rule;
    rule.kind = row.kind;
    for (size_t j = 0; j < models; ++j) {
      rule.weights.push_back(1.0 / static_cast<double>(models));
      rule.keys.push_back(j + 10);
    }
    return rule;
  }
  static std::string Merge(const MergeRule& rule,
                           const std::vector<MergeTensor>& tensors) {
    std::string bytes;
    MergeStream stream;
    stream.sink = [&](absl::string_view more) {
      bytes.append(more.data(), more.size());
      return absl::OkStatus();
    };
    int64_t last = 0, total = 0;
    stream.progress = [&](int64_t done, int64_t all) {
      EXPECT_GE(done, last);
      last = done;
      total = all;
    };
    EXPECT_TRUE(MergeTensors(rule, tensors, stream).ok());
    EXPECT_EQ(last, total);
    return bytes;
  }
  static std::string Bytes(const std::vector<MergeTensor>& tensors,
                           int model) {
    std::string bytes;
    for (const MergeTensor& t : tensors) {
      const Tensor& from = model < 0 ? t.base : t.models[model];
      bytes.append(static_cast<const char*>(from.data), from.bytes());
    }
    return bytes;
  }

  std::mt19937_64 random_{11};
  std::vector<std::unique_ptr<float[]>> numbers_;
};

// pcb drops the lowest score, so it promises nothing of the kind.
TEST_F(MergeTest, OneModelIsThatModel) {
  for (const MergeKindRow& row : MergeKinds()) {
    if (row.kind == MergeKind::kPcb) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      auto tensors = Random(1, row, dtype);
      // Numbers of very different size than the base's.
      tensors[1].models[0] = tensors[1].base;
      if (dtype == DType::kF32) {
        tensors[0].models[0].f32()[0] = 1e-30f;
        tensors[0].models[0].f32()[1] = 1e20f;
      }
      EXPECT_EQ(Merge(RuleFor(row, 1), tensors), Bytes(tensors, 0))
          << row.name << " " << math::Name(dtype);
    }
  }
}

TEST_F(MergeTest, IdenticalModelsAreTheModel) {
  for (const MergeKindRow& row : MergeKinds()) {
    if (row.kind == MergeKind::kPcb) continue;
    const size_t models = row.kind == MergeKind::kSlerp ? 2 : 3;
    auto tensors = Random(models, row);
    for (MergeTensor& t : tensors) {
      for (Tensor& m : t.models) m = t.models[0];
    }
    EXPECT_EQ(Merge(RuleFor(row, models), tensors), Bytes(tensors, 0))
        << row.name;
  }
}

TEST_F(MergeTest, ModelsThatAreTheBaseAreTheBase) {
  for (const MergeKindRow& row : MergeKinds()) {
    const size_t models = row.kind == MergeKind::kSlerp ? 2 : 3;
    auto tensors = Random(models, row);
    for (MergeTensor& t : tensors) {
      for (Tensor& m : t.models) m = t.base;
    }
    MergeRule rule = RuleFor(row, models);
    rule.density = 0.3;
    rule.lambda = 0.7;
    EXPECT_EQ(Merge(rule, tensors), Bytes(tensors, -1)) << row.name;
  }
}

TEST_F(MergeTest, NoModelIsTheBase) {
  for (const MergeKindRow& row : MergeKinds()) {
    const auto tensors = Random(0, row);
    EXPECT_EQ(Merge(RuleFor(row, 0), tensors), Bytes(tensors, -1))
        << row.name;
  }
}

// Same bytes on any number of threads; also when a tensor is cut elsewhere,
// which a second copy of its tail shows.
TEST_F(MergeTest, ThreadsChangeNothing) {
  for (const MergeKindRow& row : MergeKinds()) {
    const size_t models = row.kind == MergeKind::kSlerp ? 2 : 3;
    const auto tensors = Random(models, row, DType::kBF16, kLarge);
    MergeRule rule = RuleFor(row, models);
    rule.density = 0.3;
    rule.lambda = 0.8;
    math::SetThreads(1);
    const std::string one = Merge(rule, tensors);
    math::SetThreads(4);
    EXPECT_EQ(Merge(rule, tensors), one) << row.name;
    math::SetThreads(1);
    EXPECT_NE(one, Bytes(tensors, 0)) << row.name;
  }
}

// Coarse numbers give many equal magnitudes: exactly floor(density n) stay,
// the first of those that tie.
TEST_F(MergeTest, TiesKeepsExactlyTheShare) {
  MergeTensor t;
  t.name = "x";
  t.base = New(100001, 0);
  t.models = {New(100001, 1)};
  for (int64_t i = 0; i < t.base.size(); ++i) {
    t.models[0].f32()[i] = std::round(t.models[0].f32()[i] * 2) / 2;
  }
  MergeRule rule;
  rule.kind = MergeKind::kTies;
  rule.weights = {1};
  rule.density = 0.25;
  const std::string bytes = Merge(rule, {t});
  const float* merged = reinterpret_cast<const float*>(bytes.data());
  std::vector<std::pair<float, int64_t>> order;
  for (int64_t i = 0; i < t.base.size(); ++i) {
    order.push_back({-std::abs(t.models[0].f32()[i]), i});
  }
  std::sort(order.begin(), order.end());
  int64_t wrong = 0;
  for (int64_t rank = 0; rank < t.base.size(); ++rank) {
    const int64_t i = order[rank].second;
    const float want = rank < 25000 ? t.models[0].f32()[i] : 0.0f;
    wrong += merged[i] != want ? 1 : 0;
  }
  EXPECT_EQ(wrong, 0);
}

// A model's mask is its own: it stays when another model leaves or comes.
TEST_F(MergeTest, DareDropsByModelAndRescales) {
  MergeTensor t;
  t.name = "x";
  t.base = New(100000, 0);
  t.models = {New(100000, 1), New(100000, 1)};
  MergeRule rule;
  rule.kind = MergeKind::kDare;
  rule.weights = {1, 1};
  rule.keys = {7, 8};
  rule.density = 0.25;
  const auto merge = [&](std::vector<size_t> which) {
    MergeRule part = rule;
    MergeTensor some = t;
    part.weights.clear();
    part.keys.clear();
    some.models.clear();
    for (const size_t j : which) {
      part.weights.push_back(rule.weights[j]);
      part.keys.push_back(rule.keys[j]);
      some.models.push_back(t.models[j]);
    }
    const std::string bytes = Merge(part, {some});
    const float* from = reinterpret_cast<const float*>(bytes.data());
    return std::vector<float>(from, from + t.base.size());
  };
  const auto both = merge({0, 1}), first = merge({0}), second = merge({1});
  int64_t kept = 0;
  for (size_t i = 0; i < both.size(); ++i) {
    const float model = t.models[0].f32()[i];
    ASSERT_TRUE(first[i] == 0 || first[i] == 4 * model) << i;
    ASSERT_NEAR(both[i], first[i] + second[i], 1e-5) << i;
    kept += first[i] != 0 ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(kept), 25000, 600);
  EXPECT_NE(first, second);
}

TEST_F(MergeTest, MixedDtypesBecomeF32) {
  MergeTensor t;
  t.base = New(4, 1, DType::kBF16);
  t.models = {New(4, 1, DType::kBF16), New(4, 1, DType::kBF16)};
  EXPECT_EQ(MergedDType(t), DType::kBF16);
  t.models[1] = New(4, 1, DType::kF16);
  EXPECT_EQ(MergedDType(t), DType::kF32);
  t.models.clear();
  EXPECT_EQ(MergedDType(t), DType::kBF16);
}

TEST_F(MergeTest, WhatOverflowsIsNamed) {
  auto tensors = Random(2, *FindMergeKind("linear"), DType::kF16);
  MergeRule rule = RuleFor(*FindMergeKind("task_arithmetic"), 2);
  rule.lambda = 1e6;
  MergeStream stream;
  stream.sink = [](absl::string_view) { return absl::OkStatus(); };
  const absl::Status status = MergeTensors(rule, tensors, stream);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("numbers in large"), std::string::npos);
}

// More models than fit the usual piece, with a result that can be checked.
TEST_F(MergeTest, ManyModels) {
  const size_t models = 63;
  const auto tensors = Random(models, *FindMergeKind("fisher"),
                              DType::kF32, 20000);
  const std::string bytes =
      Merge(RuleFor(*FindMergeKind("linear"), models), tensors);
  const float* merged = reinterpret_cast<const float*>(bytes.data());
  for (int64_t i = 0; i < 20000; ++i) {
    double mean = 0;
    for (const Tensor& m : tensors[0].models) mean += m.f32()[i] / 63.0;
    ASSERT_NEAR(merged[i], mean, 1e-6);
  }
  EXPECT_EQ(Merge(RuleFor(*FindMergeKind("fisher"), models), tensors).size(),
            bytes.size());
}

TEST_F(MergeTest, TheSinkEndsIt) {
  const auto tensors = Random(2, *FindMergeKind("linear"));
  MergeStream stream;
  stream.sink = [](absl::string_view) {
    return absl::ResourceExhaustedError("full");
  };
  EXPECT_EQ(
      MergeTensors(RuleFor(*FindMergeKind("linear"), 2), tensors, stream)
          .code(),
      absl::StatusCode::kResourceExhausted);
}

TEST(RadixSelectTest, FindsTheKthLargest) {
  std::mt19937 random(5);
  std::vector<float> values;
  for (int i = 0; i < 5000; ++i) {
    values.push_back(static_cast<float>(static_cast<int>(random() % 700)) -
                     350.0f);
  }
  std::vector<float> sorted = values;
  std::sort(sorted.rbegin(), sorted.rend());
  for (const uint64_t k : {1, 2, 17, 2500, 4999, 5000}) {
    RadixSelect select(k);
    for (int pass = 0; pass < RadixSelect::kPasses; ++pass) {
      RadixSelect::Counts a, b;
      for (size_t i = 0; i < values.size(); ++i) {
        select.Count(KeyOf(values[i]), i % 3 == 0 ? a : b);
      }
      select.Add(a);
      select.Add(b);
      select.Next();
    }
    const float found = FromKey(select.key());
    EXPECT_EQ(found, sorted[k - 1]) << k;
    EXPECT_EQ(select.equal(), static_cast<uint64_t>(std::count(
                                  values.begin(), values.end(), found)));
    const auto above = static_cast<uint64_t>(
        std::count_if(values.begin(), values.end(),
                      [&](float v) { return v > found; }));
    EXPECT_EQ(select.wanted(), k - above);
  }
}

TEST(NarrowF16Test, EveryHalfComesBackAndTiesGoToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float wide = math::WidenF16(static_cast<uint16_t>(bits));
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(math::WidenF16(math::NarrowF16(wide))));
    } else {
      EXPECT_EQ(math::NarrowF16(wide), bits) << bits;
    }
  }
  EXPECT_EQ(math::NarrowF16(1.0f + 0x1p-11f), math::NarrowF16(1.0f));
  EXPECT_EQ(math::NarrowF16(1.0f + 3 * 0x1p-11f),
            math::NarrowF16(1.0f) + 2);
  EXPECT_EQ(math::NarrowF16(65519.0f), 0x7bff);
  EXPECT_EQ(math::NarrowF16(65520.0f), 0x7c00);
  EXPECT_EQ(math::NarrowF16(-1e10f), 0xfc00);
}

}  // namespace
}  // namespace motet::assemble
