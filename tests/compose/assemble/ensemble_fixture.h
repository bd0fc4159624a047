// SPDX-License-Identifier: Apache-2.0
// What the tests of ensembles share. Header-only, as tiny.h is.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {

inline Recipe RecipeFor(const std::vector<Part>& parts,
                        const std::string& weights = "bayes") {
  Recipe recipe = TinyFederation::RecipeFor(parts);
  recipe.method = "ensemble";
  recipe.ensemble.weights = weights;
  return recipe;
}

// A federation of one expert of each kind.
class EnsembleMethodTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    TinyOptions options;
    options.kinds = {"ffn", "dense", "sized", "attention_ffn"};
    options.block = model::Block::kPreNorm;
    federation_ = new TinyFederation(options);
  }
  static void TearDownTestSuite() { delete federation_; }
  static const TinyFederation& f() { return *federation_; }

  static std::unique_ptr<Composition> Compose(const Recipe& recipe,
                                              const std::vector<Part>& parts) {
    const Plan plan = MakePlan(recipe, f().base(), parts);
    EXPECT_THAT(plan.problems, testing::IsEmpty());
    // As it is read back.
    const auto lock = ParseLock(WriteLock(plan.lock), "test");
    EXPECT_TRUE(lock.ok()) << lock.status();
    return f().Load(*lock);
  }
  static std::vector<float> Logits(const Composition& c, math::ExpertMask set,
                                   const std::vector<int32_t>& ids) {
    const auto scorer = c.ScorerFor(set);
    EXPECT_TRUE(scorer.ok()) << scorer.status();
    return LogitsOf(**scorer, ids);
  }
  // A whole model's own decoder, of the tensors that its package was made of.
  static std::vector<float> LogitsOfBranch(int e,
                                           const std::vector<int32_t>& ids) {
    model::ModelConfig config = f().config();
    config.ffn_width = f().experts()[e].manifest.model().ffn_width();
    std::map<std::string, math::Tensor> tensors;
    for (const auto& [name, tensor] : f().branch(e)) tensors[name] = tensor;
    model::ModelWeights weights;
    model::VisitWeights(config, weights,
                        [&](const std::string& name, const math::Shape&,
                            math::Tensor& to) { to = tensors[name]; });
    const auto decoder = model::Decoder::Create(config, weights, {});
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    return LogitsOf(*decoder, ids, 1);
  }
  static inline TinyFederation* federation_ = nullptr;
};

}  // namespace motet::assemble
