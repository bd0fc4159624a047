// SPDX-License-Identifier: Apache-2.0
// What an ensemble serves against its models one by one, mixed by ensemble.h,
// whose functions tests/golden holds against PyTorch.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/assemble/ensemble.h"
#include "compose/assemble/ensemble_prior.h"
#include "compose/learn/corpus.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/ensemble_fixture.h"

namespace motet::assemble {
namespace {

using math::ExpertMask;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// What the models said, [J][n,V], mixed by the functions that the fixture of
// tests/golden checks.
std::vector<float> MixedByHand(const std::vector<std::vector<float>>& models,
                               const std::vector<int32_t>& ids, bool bayes,
                               int64_t top_k) {
  const size_t vocabulary = models[0].size() / ids.size();
  Posterior posterior = Posterior::Uniform(models.size());
  std::vector<float> all;
  for (size_t t = 0; t < ids.size(); ++t) {
    std::vector<std::span<const float>> rows;
    for (const auto& m : models) {
      rows.push_back(std::span(m).subspan(t * vocabulary, vocabulary));
    }
    std::vector<double> weights = posterior.Weights();
    if (top_k > 0) KeepLargest(top_k, weights);
    std::vector<float> out(vocabulary);
    MixLogits(rows, weights, out);
    all.insert(all.end(), out.begin(), out.end());
    if (!bayes || t + 1 == ids.size()) continue;
    std::vector<double> log_p;
    for (const auto& row : rows) {
      log_p.push_back(row[ids[t + 1]] - LogSumExp(row));
    }
    posterior.Observe(log_p);
  }
  return all;
}

TEST_F(EnsembleMethodTest, OneModelAnswersAsItWouldAlone) {
  const auto ids = f().Ids(40);
  const auto c = Compose(RecipeFor(f().experts()), f().experts());
  ASSERT_NE(c, nullptr);
  for (const int e : {1, 2, 3}) {  // dense, sized, attention_ffn
    EXPECT_EQ(Logits(*c, ExpertMask{2} << e, ids), LogitsOfBranch(e, ids)) << e;
  }
  // The pair is what a router over the two would make of it.
  Recipe routed = TinyFederation::RecipeFor(f().Experts({0}), "topk");
  const Plan pair = MakePlan(routed, f().base(), f().Experts({0}));
  ASSERT_THAT(pair.problems, IsEmpty());
  const auto composed = f().Load(pair.lock);
  EXPECT_EQ(Logits(*c, ExpertMask{2}, ids),
            LogitsOf(*composed->decoder, ids, composed->All()));
  // Nobody but the base.
  EXPECT_EQ(Logits(*c, 1, ids), LogitsOf(*composed->decoder, ids, 1));
}

TEST_F(EnsembleMethodTest, MixesAsTheFixturesFunctionsDo) {
  const auto ids = f().Ids(40);
  struct Case {
    const char* weights;
    bool base;
    int top_k;
  };
  for (const Case& k : {Case{"uniform", false, 0}, Case{"uniform", true, 0},
                        Case{"bayes", false, 0}, Case{"bayes", true, 2},
                        Case{"bayes", false, 1}}) {
    SCOPED_TRACE(absl::StrCat(k.weights, " ", k.base, " ", k.top_k));
    Recipe recipe = RecipeFor(f().experts(), k.weights);
    recipe.ensemble.base = k.base;
    recipe.ensemble.top_k = k.top_k;
    const auto c = Compose(recipe, f().experts());
    ASSERT_NE(c, nullptr);
    EXPECT_EQ(c->decoder, nullptr);
    for (const ExpertMask set : {ExpertMask{31}, ExpertMask{0b11010}}) {
      std::vector<std::vector<float>> models;
      if (k.base) models.push_back(Logits(*c, 1, ids));
      const auto one = Compose(RecipeFor(f().experts()), f().experts());
      for (int e = 1; e <= 4; ++e) {
        if (set >> e & 1) {
          models.push_back(Logits(*one, ExpertMask{1} << e, ids));
        }
      }
      EXPECT_EQ(
          Logits(*c, set, ids),
          MixedByHand(models, ids, k.weights == std::string("bayes"), k.top_k));
    }
  }
}

TEST_F(EnsembleMethodTest, ARowDependsOnItsSequenceAlone) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.ensemble.top_k = 2;
  const auto c = Compose(recipe, f().experts());
  const auto scorer = *c->ScorerFor(c->All());
  const std::vector<std::vector<int32_t>> texts = {
      f().Ids(23, 1), f().Ids(9, 2), f().Ids(31, 3)};
  std::vector<std::vector<float>> alone;
  for (const auto& ids : texts) alone.push_back(LogitsOf(*scorer, ids));
  EXPECT_NE(alone[0], alone[1]);

  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  std::vector<std::unique_ptr<model::ScorerState>> states;
  for (const auto& ids : texts) {
    states.push_back(scorer->NewState(static_cast<int64_t>(ids.size())));
  }
  std::vector<std::vector<float>> got(texts.size());
  // Pieces of each, together; of the second sequence not in every round.
  std::vector<size_t> at(texts.size());
  for (int round = 0; at[0] < 23 || at[1] < 9 || at[2] < 31; ++round) {
    std::vector<model::ScorerInput> inputs;
    std::vector<model::RowRange> wanted;
    std::vector<size_t> owner;
    int64_t rows = 0;
    for (size_t s = 0; s < texts.size(); ++s) {
      const size_t n =
          std::min<size_t>((round * 3 + s * 5) % 7, texts[s].size() - at[s]);
      if (n == 0) continue;
      inputs.push_back(
          {std::span(texts[s]).subspan(at[s], n), states[s].get()});
      at[s] += n;
      owner.insert(owner.end(), n, s);
      wanted.push_back({rows, static_cast<int64_t>(n)});
      rows += static_cast<int64_t>(n);
    }
    if (inputs.empty()) continue;
    scorer->Run(exec, inputs, wanted,
                [&](int64_t row, const math::Tensor& logits) {
                  for (int64_t r = 0; r < logits.rows(); ++r) {
                    const float* from = logits.f32() + r * logits.cols();
                    auto& to = got[owner[static_cast<size_t>(row + r)]];
                    to.insert(to.end(), from, from + logits.cols());
                  }
                  return true;
                });
  }
  for (size_t s = 0; s < texts.size(); ++s) {
    EXPECT_EQ(got[s], alone[s]) << "sequence " << s;
  }
}

TEST_F(EnsembleMethodTest, WantedRowsAreThoseOfAll) {
  const auto c = Compose(RecipeFor(f().experts()), f().experts());
  const auto scorer = *c->ScorerFor(c->All());
  const auto ids = f().Ids(20);
  const std::vector<float> all = LogitsOf(*scorer, ids);
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const model::ScorerInput inputs[] = {{ids, nullptr}};
  const model::RowRange some[] = {{3, 2}, {19, 1}};
  std::vector<int64_t> rows;
  scorer->Run(exec, inputs, some, [&](int64_t row, const math::Tensor& l) {
    for (int64_t r = 0; r < l.rows(); ++r) {
      rows.push_back(row + r);
      const auto want = std::span(all).subspan((row + r) * l.cols(), l.cols());
      EXPECT_TRUE(std::equal(want.begin(), want.end(), l.f32() + r * l.cols()));
    }
    return true;
  });
  EXPECT_THAT(rows, ElementsAre(3, 4, 19));
  int calls = 0;
  scorer->Run(exec, inputs, some, [&](int64_t, const math::Tensor&) {
    ++calls;
    return false;
  });
  EXPECT_EQ(calls, 1);
}

TEST_F(EnsembleMethodTest, ThePriorIsLearntFromText) {
  const auto documents = TinyFederation::Documents();
  const std::string path = f().Path("prior.jsonl");
  ASSERT_TRUE(learn::WriteJsonl(path, documents).ok());
  const auto parts = f().Experts({1, 3});
  Recipe recipe = RecipeFor(parts, "prior");
  recipe.ensemble.prior_text = path;
  Plan plan = MakePlan(recipe, f().base(), parts);
  ASSERT_THAT(plan.problems, IsEmpty());
  double last = 0;
  const auto learn = [&](v1::CompositionLock& lock) {
    return LearnLock(
        recipe, f().FolderOf(), [&](double fraction) { last = fraction; },
        lock);
  };
  ASSERT_TRUE(learn(plan.lock).ok());
  EXPECT_DOUBLE_EQ(last, 1);
  const std::string text = WriteLock(plan.lock);
  ASSERT_TRUE(learn(plan.lock).ok());
  EXPECT_EQ(WriteLock(plan.lock), text);  // again: the same
  EXPECT_TRUE(ParseLock(text, "motet.lock").ok());

  const auto tokenizer = f().Load(plan.lock);
  std::vector<double> prior = {0.5, 0.5};
  ASSERT_EQ(plan.lock.ensemble().prior().sequences(), documents.size());
  for (size_t s = 0; s < documents.size(); ++s) {
    const auto ids = tokenizer->tokenizer().Encode(documents[s]);
    std::vector<double> ln_p;
    for (const int e : {1, 3}) {
      const std::vector<float> logits = LogitsOfBranch(e, ids);
      const size_t vocabulary = logits.size() / ids.size();
      double sum = 0;
      for (size_t t = 0; t + 1 < ids.size(); ++t) {
        const auto row = std::span(logits).subspan(t * vocabulary, vocabulary);
        sum += row[ids[t + 1]] - LogSumExp(row);
      }
      ln_p.push_back(sum);
      EXPECT_DOUBLE_EQ(sum, plan.lock.ensemble().prior().experts(e / 2).ln_p(
                                static_cast<int>(s)));
    }
    const double p = 1 / (1 + std::exp(ln_p[1] - ln_p[0]));
    prior[0] = 0.3 * p + 0.7 * prior[0];
    prior[1] = 0.3 * (1 - p) + 0.7 * prior[1];
  }
  const auto got = PriorOf(plan.lock.ensemble().prior(), 7);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_NEAR(got[0], prior[0], 1e-12);
  EXPECT_NEAR(got[1], prior[1], 1e-12);
  EXPECT_GT(std::abs(got[0] - 0.5), 1e-3);

  // Fixed weights: the mixture by them, whatever the prefix; with top_k = 1
  // the likelier model alone; with bayes the posterior starts there.
  const auto ids = f().Ids(25);
  const std::vector<std::vector<float>> models = {LogitsOfBranch(1, ids),
                                                  LogitsOfBranch(3, ids)};
  const size_t vocabulary = models[0].size() / ids.size();
  const std::vector<float> fixed =
      LogitsOf(**tokenizer->ScorerFor(tokenizer->All()), ids);
  for (size_t t = 0; t < ids.size(); ++t) {
    const std::vector<std::span<const float>> rows = {
        std::span(models[0]).subspan(t * vocabulary, vocabulary),
        std::span(models[1]).subspan(t * vocabulary, vocabulary)};
    std::vector<float> want(vocabulary);
    MixLogits(rows, Posterior(got).Weights(), want);
    EXPECT_TRUE(
        std::equal(want.begin(), want.end(), fixed.begin() + t * vocabulary));
  }
  v1::CompositionLock changed = plan.lock;
  changed.mutable_ensemble()->set_top_k(1);
  const auto one = f().Load(changed);
  EXPECT_EQ(LogitsOf(**one->ScorerFor(one->All()), ids),
            models[got[0] >= got[1] ? 0 : 1]);
  changed = plan.lock;
  changed.mutable_ensemble()->set_weights("bayes");
  const auto bayes = f().Load(changed);
  const std::vector<float> from =
      LogitsOf(**bayes->ScorerFor(bayes->All()), ids);
  EXPECT_TRUE(
      std::equal(from.begin(), from.begin() + vocabulary, fixed.begin()));
  EXPECT_NE(from, fixed);

  recipe.ensemble.prior_text = f().Path("nothing.jsonl");
  const absl::Status missing = learn(plan.lock);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("nothing.jsonl"));
  ASSERT_TRUE(learn::WriteJsonl(path, {"", "a"}).ok());
  recipe.ensemble.prior_text = path;
  EXPECT_THAT(std::string(learn(plan.lock).message()),
              HasSubstr("no document of two tokens"));
}

TEST_F(EnsembleMethodTest, CentroidsWeighByTheBasesView) {
  const auto parts = f().Experts({1, 3});
  for (const bool with_base : {false, true}) {
    SCOPED_TRACE(with_base);
    Recipe recipe = RecipeFor(parts, "centroid");
    recipe.ensemble.base = with_base;
    recipe.ensemble.temperature = 0.3;
    const auto c = Compose(recipe, parts);
    ASSERT_NE(c, nullptr);
    const auto ids = f().Ids(25);
    std::vector<std::vector<float>> models = {LogitsOfBranch(1, ids),
                                              LogitsOfBranch(3, ids)};
    const auto base = model::Decoder::Create(c->config, c->base->weights, {});
    ASSERT_TRUE(base.ok()) << base.status();
    if (with_base) models.insert(models.begin(), LogitsOf(*base, ids, 1));
    math::Arena arena;
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    const model::SequenceInput inputs[] = {{ids}};
    model::Trace trace;
    base->Forward(exec, model::Batch(inputs), &trace);
    const auto anchor = package::SafetensorsFile::Open(f().base().folder +
                                                       "/anchor.safetensors");
    ASSERT_TRUE(anchor.ok()) << anchor.status();
    const auto layers = c->config.layers, width = c->config.width;
    const auto unit = [&](const double* x) {
      double square = 0;
      for (int64_t i = 0; i < width; ++i) square += x[i] * x[i];
      std::vector<double> u(x, x + width);
      for (double& v : u) v /= std::sqrt(square);
      return u;
    };
    const std::vector<float> got = LogitsOf(**c->ScorerFor(c->All()), ids);
    const size_t vocabulary = models[0].size() / ids.size();
    std::vector<std::vector<double>> sum(layers, std::vector<double>(width));
    double furthest = 0;
    for (size_t t = 0; t < ids.size(); ++t) {
      std::vector<double> exponents(models.size());
      for (int64_t l = 0; l < layers; ++l) {
        for (int64_t i = 0; i < width; ++i) {
          sum[l][i] += trace.router_input[l].f32()[t * width + i];
        }
        const auto h = unit(sum[l].data());
        for (size_t j = 0; j < models.size(); ++j) {
          std::vector<double> mean(width);
          for (int64_t i = 0; i < width; ++i) {
            const size_t e = with_base ? j - 1 : j;
            mean[i] =
                with_base && j == 0
                    ? (*anchor)
                          ->Find(absl::StrCat("layers.", l, ".mean"))
                          .f32()[i]
                    : parts[e].manifest.domain().anchored().layers(l).base_mean(
                          static_cast<int>(i));
          }
          const auto centre = unit(mean.data());
          for (int64_t i = 0; i < width; ++i) {
            exponents[j] -=
                (h[i] - centre[i]) * (h[i] - centre[i]) / layers / 0.3;
          }
        }
      }
      double total = 0;
      for (double& x : exponents) total += x = std::exp(x);
      for (double& x : exponents) x /= total;
      furthest =
          std::max(furthest, std::abs(exponents[0] - 1.0 / models.size()));
      std::vector<std::span<const float>> rows;
      for (const auto& m : models) {
        rows.push_back(std::span(m).subspan(t * vocabulary, vocabulary));
      }
      std::vector<float> want(vocabulary);
      MixLogits(rows, exponents, want);
      for (size_t v = 0; v < vocabulary; ++v) {
        ASSERT_NEAR(got[t * vocabulary + v], want[v], 1e-4) << t;
      }
    }
    EXPECT_GT(furthest, 0.05);  // it does weigh
  }
}

}  // namespace
}  // namespace motet::assemble
