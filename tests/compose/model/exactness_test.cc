// SPDX-License-Identifier: Apache-2.0
// A token's logits are the same bits whatever else is in the batch, however
// its prompt is cut, cached or not, on one thread or two; for every
// instruction set and arithmetic that runs here. Sequences of random lengths
// and expert sets go forward in random pieces, a random few of them at a
// time, and each must end where it ends alone and whole.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/compose/model/random_model.h"

namespace motet::model {
namespace {

using math::ExpertMask;
using math::Product;

struct Text {
  std::vector<int32_t> ids;
  ExpertMask allowed;
};

class ExactnessTest : public testing::TestWithParam<Product> {
 protected:
  void SetUp() override {
    if (GetParam() == Product::kBf16 && !math::HasBf16()) {
      GTEST_SKIP() << "no bf16 instructions here";
    }
  }
  ~ExactnessTest() override {
    math::cpu::Activate(best_);
    math::SetThreads(threads_);
  }

  std::vector<float> Logits(const Decoder& decoder,
                            std::span<const SequenceInput> inputs) {
    arena_.Reset();
    math::Exec exec(math::Cpu(), arena_, GetParam());
    const math::Tensor logits =
        decoder.Logits(exec, decoder.Forward(exec, Batch(inputs)));
    return {logits.f32(), logits.f32() + logits.size()};
  }

  // All logits of a text, alone, whole, without a cache.
  std::vector<float> Alone(const Decoder& decoder, const Text& text) {
    const SequenceInput input{text.ids, nullptr, text.allowed};
    return Logits(decoder, {&input, 1});
  }

  // The same of all texts, in random company.
  std::vector<std::vector<float>> Together(const Decoder& decoder,
                                           const std::vector<Text>& texts) {
    std::vector<std::unique_ptr<SequenceCache>> caches;
    std::vector<std::vector<float>> out(texts.size());
    for (const Text& text : texts) {
      caches.push_back(std::make_unique<SequenceCache>(
          decoder.config(), static_cast<int64_t>(text.ids.size()),
          decoder.config().experts));
    }
    for (;;) {
      std::vector<SequenceInput> inputs;
      std::vector<size_t> who;
      bool left = false;
      for (size_t s = 0; s < texts.size(); ++s) {
        const size_t at = static_cast<size_t>(caches[s]->length());
        const size_t rest = texts[s].ids.size() - at;
        left = left || rest > 0;
        if (rest == 0 || Below(3) == 0) continue;
        const size_t most[] = {1, 1, 7, 40, rest};
        const size_t n = std::min(rest, 1 + Below(most[Below(5)]));
        inputs.push_back({std::span(texts[s].ids).subspan(at, n),
                          caches[s].get(), texts[s].allowed});
        who.push_back(s);
      }
      if (!left) return out;
      if (inputs.empty()) continue;
      math::SetThreads(1 + static_cast<int>(Below(2)));
      const std::vector<float> logits = Logits(decoder, inputs);
      const float* row = logits.data();
      for (size_t i = 0; i < who.size(); ++i) {
        const size_t n = inputs[i].ids.size() *
                         static_cast<size_t>(decoder.config().vocabulary);
        out[who[i]].insert(out[who[i]].end(), row, row + n);
        row += n;
      }
    }
  }

  size_t Below(size_t n) { return random_() % n; }

  std::mt19937_64 random_{5};
  math::Arena arena_;
  const math::cpu::Isa& best_ = math::cpu::Active();
  const int threads_ = math::Threads();
};

TEST_P(ExactnessTest, NoCompanyMovesABit) {
  std::vector<const math::cpu::Isa*> sets = {&math::cpu::Avx2()};
  if (math::cpu::HasAvx512()) sets.push_back(&math::cpu::Avx512());
  if (math::cpu::HasAvx512Bf16()) {
    sets.push_back(&math::cpu::Avx512Bf16(true));
    sets.push_back(&math::cpu::Avx512Bf16(false));
  }
  for (const Block block : {Block::kPreNorm, Block::kPostNorm}) {
    const RandomModel model = MakeRandomModel(block, 5, true, 3, true);
    for (const Router& router : {model.top_k, model.anchored}) {
      auto decoder = Decoder::Create(model.config, model.weights, router);
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      for (const math::cpu::Isa* isa : sets) {
        if (GetParam() == Product::kBf16 && isa->bf16.tile == nullptr) {
          continue;
        }
        math::cpu::Activate(*isa);
        std::vector<Text> texts;
        for (uint64_t s = 0; s < 6; ++s) {
          texts.push_back(
              {RandomModel::Text(model.config, s,
                                 static_cast<int64_t>(1 + Below(90))),
               ExpertMask{1} | Below(32)});
        }
        const auto together = Together(*decoder, texts);
        for (size_t s = 0; s < texts.size(); ++s) {
          math::SetThreads(1);
          ASSERT_EQ(together[s], Alone(*decoder, texts[s]))
              << isa->name << ", text " << s << " of "
              << texts[s].ids.size();
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ExactnessTest, testing::Values(Product::kExact, Product::kBf16),
    [](const testing::TestParamInfo<Product>& info) {
      return info.param == Product::kExact ? "F32" : "Bf16";
    });

}  // namespace
}  // namespace motet::model
