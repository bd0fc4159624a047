// SPDX-License-Identifier: Apache-2.0
// The averaged trunk over real packages: which tensors it has, that they are
// the mean of the set's members, and what takes no memory.
#include "compose/assemble/trunk.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

TinyOptions DenseOptions(int experts = 4) {
  TinyOptions options;
  options.dense = true;
  options.experts = experts;
  options.block = model::Block::kPreNorm;
  return options;
}

v1::CompositionLock MergeLockOf(const TinyFederation& f) {
  Recipe recipe = TinyFederation::RecipeFor(f.experts());
  recipe.method = "merge";
  return MakePlan(recipe, f.base(), f.experts()).lock;
}

const package::NamedTensor& Of(const std::vector<package::NamedTensor>& all,
                               const std::string& name) {
  for (const package::NamedTensor& t : all) {
    if (t.name == name) return t;
  }
  ADD_FAILURE() << name;
  return all[0];
}

TEST(TrunkTest, IsTheMeanOfTheMembersWithoutWhatIsOwn) {
  const TinyFederation f(DenseOptions());
  const auto parts = OpenDenseParts(MergeLockOf(f), f.FolderOf());
  ASSERT_TRUE(parts.ok()) << parts.status();
  for (const math::ExpertMask set : {0b1, 0b11, 0b10101, 0b11111, 0b110}) {
    auto trunk = AverageTrunk(f.config(), *parts, set, IsFfn);
    ASSERT_TRUE(trunk.ok()) << trunk.status();
    int64_t bytes = 0;
    model::VisitWeights(
        f.config(), trunk->weights,
        [&](const std::string& name, const math::Shape& shape,
            math::Tensor& got) {
          if (IsFfn(name)) {
            EXPECT_TRUE(got.empty()) << name;
            return;
          }
          ASSERT_FALSE(got.empty()) << name;
          EXPECT_EQ(got.dtype, math::DType::kF32);
          EXPECT_TRUE(got.shape == shape);
          const bool mapped = got.data == parts->base->Find(name).data;
          if (!mapped) bytes += got.bytes();
          for (int64_t i = 0; i < got.size(); ++i) {
            double sum = 0;
            int members = 0;
            for (int m = 0; m <= 4; ++m) {
              if ((set >> m & 1) == 0) continue;
              const auto& from = m == 0 ? f.base_weights() : f.branch(m - 1);
              sum += Of(from, name).tensor.f32()[i];
              ++members;
            }
            ASSERT_NEAR(got.f32()[i], sum / members, 1e-6) << name;
          }
        });
    EXPECT_EQ(bytes, TrunkBytes(f.config(), *parts, set, IsFfn));
    if (set == 1) {
      EXPECT_EQ(bytes, 0);  // the base where it lies
    }
  }
}

// Whoever else was composed: the set's members in their order decide.
TEST(TrunkTest, ASetsTrunkIsThatOfTheSetAlone) {
  const TinyFederation f(DenseOptions());
  const v1::CompositionLock lock = MergeLockOf(f);
  LoadOptions only;
  only.all = false;
  only.only = {2, 4};
  const auto all = OpenDenseParts(lock, f.FolderOf());
  const auto two = OpenDenseParts(*SelectExperts(lock, only), f.FolderOf());
  ASSERT_TRUE(all.ok() && two.ok());
  auto a = AverageTrunk(f.config(), *all, 0b10101, IsAttention);
  auto b = AverageTrunk(f.config(), *two, 0b111, IsAttention);
  ASSERT_TRUE(a.ok() && b.ok());
  std::vector<math::Tensor> want;
  model::VisitWeights(f.config(), a->weights,
                      [&](const auto&, const auto&, math::Tensor& t) {
                        want.push_back(t);
                      });
  size_t i = 0;
  model::VisitWeights(
      f.config(), b->weights,
      [&](const std::string& name, const auto&, math::Tensor& t) {
        EXPECT_EQ(t.empty(), IsAttention(name)) << name;
        if (!t.empty()) {
          EXPECT_EQ(0, memcmp(t.data, want[i].data, t.bytes())) << name;
        }
        ++i;
      });
}

TEST(TrunkTest, EqualMembersAreEachOfThem) {
  TinyOptions options = DenseOptions(3);
  options.noise = 0;
  const TinyFederation f(options);
  const auto parts = OpenDenseParts(MergeLockOf(f), f.FolderOf());
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(0, TrunkBytes(f.config(), *parts, 0b1111, IsFfn));
}

}  // namespace
}  // namespace motet::assemble
