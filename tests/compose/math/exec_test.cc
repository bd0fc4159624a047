// SPDX-License-Identifier: Apache-2.0
// Exec records what a backward needs and nothing for frozen inputs; the
// chained gradients of a small network are finite differences.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "compose/math/exec.h"
#include "tests/compose/math/cases.h"

namespace motet::math {
namespace {

class TestRecorder : public Recorder {
 public:
  void Train(const Tensor& t) { needed_.insert(t.data); }
  bool Needs(const Tensor& t) const override {
    return needed_.count(t.data) > 0;
  }
  void MarkNeeded(const Tensor& t) override { needed_.insert(t.data); }
  Tensor Gradient(const Tensor& t) override {
    if (!Needs(t)) return {};
    auto [it, added] = gradients_.try_emplace(t.data);
    if (added) it->second = pool_.Zeros(t.shape);
    return it->second;
  }
  void Record(OpId op, std::function<void()> backward) override {
    ops.push_back(op);
    steps_.push_back(std::move(backward));
  }
  void Backward() {
    for (auto it = steps_.rbegin(); it != steps_.rend(); ++it) (*it)();
  }
  std::vector<OpId> ops;

 private:
  Pool pool_;
  std::set<const void*> needed_;
  std::map<const void*, Tensor> gradients_;
  std::vector<std::function<void()>> steps_;
};

// A block of two experts after attention: every recorded operator once.
struct Network {
  explicit Network(Random& random) {
    auto add = [&](const Shape& shape) {
      parameters.push_back(pool.Normal(shape, random, 0.4f));
      return parameters.back();
    };
    table = add({11, 8});
    norm = add({8});
    query = add({8, 8});
    key = add({4, 8});
    value = add({4, 8});
    value_bias = add({4});
    router = add({2, 8});
    bias = add({1});
    for (int e = 0; e < 2; ++e) {
      gate[e] = add({6, 8});
      up[e] = add({6, 8});
      down[e] = add({8, 6});
    }
    head = add({11, 8});
    bias.f32()[0] = -0.3f;
  }

  double Loss(Exec& exec) {
    Tensor x = exec.Embed(ids, table);
    Tensor n = exec.RmsNorm(x, norm, 1e-5f);
    Tensor q = exec.Rope(exec.Linear(n, query), positions, frequencies);
    Tensor k = exec.Rope(exec.Linear(n, key), positions, frequencies);
    Tensor v = exec.AddBias(exec.Linear(n, value), value_bias);
    x = exec.Add(x, exec.Attention(q, k, v, {2, 1, 4}, segments));
    Tensor logits = exec.OwnerBias(exec.Linear(x, router), bias);
    const double z = exec.RouterZ(logits, 0.1);
    Routing routing = exec.TopK(logits, {}, 2, false);
    std::vector<ExpertRows> shares;
    for (int e = 0; e < 2; ++e) {
      rows[e].clear();
      slots[e].clear();
      for (int32_t m = 0; m < 6; ++m) {
        for (int32_t s = 0; s < 2; ++s) {
          if (routing.idx.i32()[2 * m + s] != e) continue;
          rows[e].push_back(m);
          slots[e].push_back(s);
        }
      }
      Tensor in = exec.Gather(x, rows[e]);
      Tensor f = exec.Linear(
          exec.SwiGlu(exec.Linear(in, gate[e]), exec.Linear(in, up[e])),
          down[e]);
      shares.push_back({rows[e], slots[e], f, {}});
    }
    x = exec.Add(x, exec.Combine(routing, shares, 6, 8));
    return exec.CrossEntropy(exec.Linear(x, head), targets, 0.01) + 0.1 * z;
  }

  Pool pool;
  std::vector<Tensor> parameters;
  Tensor table, norm, query, key, value, value_bias, router, bias, head;
  Tensor gate[2], up[2], down[2];
  std::vector<int32_t> rows[2], slots[2];
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9};
  const std::vector<int32_t> targets = {1, 4, 1, 5, -1, 2};
  const std::vector<int32_t> positions = {0, 1, 2, 0, 1, 2};
  const std::vector<double> frequencies = {1, 0.01};
  const std::vector<Segment> segments = {{0, 3, 0}, {3, 3, 0}};
};

TEST(ExecTest, ChainedGradientsAreFiniteDifferences) {
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    for (Product product : {Product::kExact, Product::kLibrary}) {
      Random random(1);
      Network net(random);
      TestRecorder recorder;
      for (const Tensor& p : net.parameters) recorder.Train(p);
      Arena arena;
      Exec exec(*kernels, arena, product, &recorder);
      const double loss = net.Loss(exec);
      recorder.Backward();
      EXPECT_EQ(recorder.ops.back(), OpId::kCrossEntropy);
      auto value = [&] {
        Arena scratch;
        Exec plain(*kernels, scratch, product);
        return net.Loss(plain);
      };
      EXPECT_EQ(value(), loss);
      for (size_t i = 0; i < net.parameters.size(); ++i) {
        Tensor p = net.parameters[i];
        const Tensor d = recorder.Gradient(p);
        for (int probe = 0; probe < 6; ++probe) {
          const int64_t at = random.Int(0, p.size() - 1);
          const float kept = p.f32()[at];
          p.f32()[at] = kept + 5e-3f;
          const double above = value();
          p.f32()[at] = kept - 5e-3f;
          const double below = value();
          p.f32()[at] = kept;
          EXPECT_NEAR(d.f32()[at], (above - below) / 1e-2, 2e-3)
              << kernels->name << " parameter " << i;
        }
      }
    }
  }
}

// The owner's run: only expert 1, the bias and the router train. What lies
// before them is not recorded, frozen weights get no gradient, and the
// gradients that are computed equal those of the full run.
TEST(ExecTest, FrozenInputsCostNothing) {
  Random random(2);
  Network net(random);
  TestRecorder all, owner;
  for (const Tensor& p : net.parameters) all.Train(p);
  const std::vector<Tensor> trained = {net.router, net.bias, net.gate[1],
                                       net.up[1], net.down[1]};
  for (const Tensor& p : trained) owner.Train(p);
  Arena arena;
  for (TestRecorder* recorder : {&all, &owner}) {
    Exec exec(Cpu(), arena, Product::kExact, recorder);
    net.Loss(exec);
    recorder->Backward();
  }
  for (const Tensor& p : trained) {
    const Tensor a = all.Gradient(p), b = owner.Gradient(p);
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0);
  }
  EXPECT_TRUE(owner.Gradient(net.gate[0]).empty());
  EXPECT_TRUE(owner.Gradient(net.table).empty());
  for (OpId op : owner.ops) {
    EXPECT_NE(op, OpId::kEmbed);
    EXPECT_NE(op, OpId::kAttention);
    EXPECT_NE(op, OpId::kRope);
    EXPECT_NE(op, OpId::kGather);
  }
}

TEST(ArenaTest, ReleaseGivesMemoryBackAndKeepsWhatLiesBefore) {
  Arena arena(4096);
  Tensor first = arena.Zeros({10});
  const Arena::Mark mark = arena.mark();
  Tensor large = arena.New({5000});  // larger than a block
  Tensor small = arena.New({1});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data) % 64, 0u);
  EXPECT_NE(arena.Allocate(0), arena.Allocate(0));
  const int64_t peak = arena.peak_bytes();
  EXPECT_GE(peak, 20000);
  std::memset(large.data, 1, large.bytes());
  std::memset(small.data, 1, small.bytes());
  arena.Release(mark);
  EXPECT_EQ(arena.New({5000}).data, large.data);  // the block was kept
  EXPECT_EQ(first.f32()[9], 0);
  EXPECT_EQ(arena.peak_bytes(), peak);
}

TEST(TensorTest, Bf16RoundsToNearestEven) {
  EXPECT_EQ(NarrowBf16(1.0f), 0x3f80);
  EXPECT_EQ(NarrowBf16(1.00390625f), 0x3f80);   // half way, to even
  EXPECT_EQ(NarrowBf16(1.01171875f), 0x3f82);   // half way, to even
  EXPECT_EQ(NarrowBf16(1.0040f), 0x3f81);
  EXPECT_EQ(WidenBf16(0xc000), -2.0f);
  EXPECT_TRUE(std::isnan(WidenBf16(NarrowBf16(NAN))));
  EXPECT_EQ(WidenBf16(NarrowBf16(INFINITY)), INFINITY);
  EXPECT_EQ(NarrowBf16(3.4e38f), 0x7f80);
}

TEST(TensorTest, F16WidensExactly) {
  EXPECT_EQ(WidenF16(0x3c00), 1.0f);
  EXPECT_EQ(WidenF16(0xc100), -2.5f);
  EXPECT_EQ(WidenF16(0x0001), 0x1p-24f);  // smallest subnormal
  EXPECT_EQ(WidenF16(0x7bff), 65504.0f);
  EXPECT_EQ(WidenF16(0xfc00), -INFINITY);
  EXPECT_TRUE(std::isnan(WidenF16(0x7e00)));
}

TEST(TensorTest, ViewsShareMemory) {
  Pool pool;
  Tensor t = pool.Zeros({4, 3});
  t.f32()[6] = 5;
  EXPECT_EQ(t.RowSlice(2, 1).f32()[0], 5);
  EXPECT_EQ(t.RowSlice(2, 2).shape.ToString(), "[2, 3]");
  EXPECT_EQ(t.Reshaped({2, 6}).f32()[6], 5);
  EXPECT_EQ(t.rows(), 4);
  EXPECT_EQ(pool.Zeros({0, 3}).rows(), 0);
}

}  // namespace
}  // namespace motet::math
