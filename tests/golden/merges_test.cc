// SPDX-License-Identifier: Apache-2.0
// Every kind of merge against the float64 fixture methods/merges, through the
// same stream that makes whole models.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compose/assemble/merge.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using assemble::MergeKind;
using assemble::MergeRule;
using assemble::MergeTensor;

constexpr double kTolerance = 1e-6;
const char* const kNames[] = {"a.weight", "b.weight", "norm.weight"};

class MergesTest : public testing::Test {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    fixture_ = std::make_unique<Fixture>("methods/merges");
    ASSERT_TRUE(fixture_->ok());
  }
  math::Tensor Get(const std::string& name) {
    numbers_.push_back(
        std::make_unique<std::vector<float>>(fixture_->Floats(name)));
    return {numbers_.back()->data(), math::DType::kF32, math::Device::kCpu,
            fixture_->ShapeOf(name)};
  }
  // The merge of the fixture's first `models` models, against PREFIX.NAME.
  void Compare(const MergeRule& rule, const std::string& prefix,
               size_t models = 3) {
    std::vector<MergeTensor> tensors;
    for (const std::string name : kNames) {
      MergeTensor t;
      t.name = name;
      t.base = Get("base." + name);
      for (size_t j = 0; j < models; ++j) {
        const std::string number = std::to_string(j) + ".";
        t.models.push_back(Get("model." + number + name));
        if (rule.kind == MergeKind::kFisher) {
          t.fishers.push_back(Get("fisher." + number + name));
        }
      }
      tensors.push_back(std::move(t));
    }
    std::string bytes;
    assemble::MergeStream stream;
    stream.sink = [&](absl::string_view more) {
      bytes.append(more.data(), more.size());
      return absl::OkStatus();
    };
    ASSERT_TRUE(assemble::MergeTensors(rule, tensors, stream).ok());
    const float* merged = reinterpret_cast<const float*>(bytes.data());
    for (const MergeTensor& t : tensors) {
      EXPECT_TRUE(Close({merged, static_cast<size_t>(t.base.size())},
                        fixture_->Doubles(prefix + "." + t.name), kTolerance))
          << prefix << " " << t.name;
      merged += t.base.size();
    }
  }
  MergeRule Rule(MergeKind kind) const {
    MergeRule rule;
    rule.kind = kind;
    rule.weights = fixture_->meta()["weights"].get<std::vector<double>>();
    return rule;
  }

  std::unique_ptr<Fixture> fixture_;
  std::vector<std::unique_ptr<std::vector<float>>> numbers_;
};

TEST_F(MergesTest, Weighted) { Compare(Rule(MergeKind::kWeighted), "linear"); }

TEST_F(MergesTest, TaskArithmetic) {
  MergeRule rule = Rule(MergeKind::kTaskArithmetic);
  rule.lambda = fixture_->meta()["task_arithmetic_lambda"].get<double>();
  Compare(rule, "task_arithmetic");
}

TEST_F(MergesTest, Slerp) {
  MergeRule rule = Rule(MergeKind::kSlerp);
  rule.weights = {0.5, 0.5};
  rule.t = 0.4;
  Compare(rule, "slerp", 2);
}

TEST_F(MergesTest, Ties) {
  MergeRule rule = Rule(MergeKind::kTies);
  rule.density = fixture_->meta()["ties"]["density"].get<double>();
  Compare(rule, "ties");
}

TEST_F(MergesTest, Pcb) {
  MergeRule rule = Rule(MergeKind::kPcb);
  rule.ratio = fixture_->meta()["pcb"]["r"].get<double>();
  rule.lambda = fixture_->meta()["pcb"]["lambda"].get<double>();
  Compare(rule, "pcb");
}

TEST_F(MergesTest, Fisher) { Compare(Rule(MergeKind::kFisher), "fisher"); }

}  // namespace
}  // namespace motet::golden
