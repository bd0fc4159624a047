// SPDX-License-Identifier: Apache-2.0
// Whole models against Hugging Face transformers (fixtures models/NAME):
// logits, hidden states, router logits and choices, gradients through the
// tape, greedy decoding through a cache; and FlexOlmo with expert sets,
// by masks and by models built from the set.
#include <algorithm>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "compose/learn/tape.h"
#include "compose/model/decoder.h"
#include "compose/model/sampler.h"
#include "compose/package/huggingface.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using math::ExpertMask;
using math::Kernels;
using math::Product;
using math::Tensor;
using model::Batch;
using model::Decoder;
using model::SequenceInput;

struct Case {
  const char* name;
  bool reference;
  Product product;
};

std::string NameOf(const testing::TestParamInfo<Case>& info) {
  std::string name;
  for (const char* c = info.param.name; *c != '\0'; ++c) {
    if (*c != '_') name += *c;
  }
  return name + (info.param.reference ? "Reference" : "Cpu") +
         (info.param.product == Product::kExact ? "Exact" : "Library");
}

// The sequences of input_ids [B,T], each without a cache.
std::vector<SequenceInput> Sequences(const std::vector<int32_t>& ids,
                                     int64_t tokens,
                                     ExpertMask allowed = ~ExpertMask{0}) {
  std::vector<SequenceInput> sequences;
  for (size_t at = 0; at < ids.size(); at += tokens) {
    sequences.push_back({std::span(ids).subspan(at, tokens), nullptr, allowed});
  }
  return sequences;
}

class ModelsTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    const std::string stem = std::string("models/") + GetParam().name;
    fixture_ = std::make_unique<Fixture>(stem + "/golden");
    ASSERT_TRUE(fixture_->ok());
    auto loaded = package::LoadModel(*Folder() + "/" + stem);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    loaded_ = *std::move(loaded);
    auto decoder = Decoder::Create(loaded_->config, loaded_->weights,
                                   model::RouterOf(loaded_->config));
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = std::make_unique<Decoder>(*std::move(decoder));
    ids_ = fixture_->Ids("input_ids");
    tokens_ = fixture_->ShapeOf("input_ids").dim[1];
  }

  const Kernels& kernels() const {
    return GetParam().reference ? math::Reference() : math::Cpu();
  }
  math::Exec MakeExec(math::Recorder* recorder = nullptr) {
    return math::Exec(kernels(), arena_, GetParam().product, recorder);
  }
  void ExpectRouting(const model::Trace& trace);

  std::unique_ptr<Fixture> fixture_;
  std::unique_ptr<package::LoadedModel> loaded_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<int32_t> ids_;
  int64_t tokens_ = 0;
  math::Arena arena_;
};

// Router logits at 1e-4, and the K largest of the fixture's are the choice.
void ModelsTest::ExpectRouting(const model::Trace& trace) {
  const int64_t experts = loaded_->config.experts;
  for (int64_t l = 0; l < loaded_->config.layers; ++l) {
    const std::vector<double> want =
        fixture_->Doubles("router_logits." + std::to_string(l));
    EXPECT_TRUE(Close(Values(trace.router_logits[l]), want, 1e-4))
        << "router logits " << l;
    const Tensor& idx = trace.routing[l].idx;
    for (int64_t m = 0; m < idx.rows(); ++m) {
      std::vector<int32_t> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return want[m * experts + a] > want[m * experts + b];
      });
      for (int64_t k = 0; k < idx.cols(); ++k) {
        ASSERT_EQ(idx.i32()[m * idx.cols() + k], order[k])
            << "layer " << l << " row " << m;
      }
    }
  }
}

TEST_P(ModelsTest, Forward) {
  math::Exec exec = MakeExec();
  const Batch batch(Sequences(ids_, tokens_));
  model::Trace trace;
  const Tensor hidden = decoder_->Forward(exec, batch, &trace);
  EXPECT_TRUE(Close(Values(decoder_->Logits(exec, hidden)),
                    fixture_->Doubles("logits"), 1e-4));
  ASSERT_EQ(static_cast<int64_t>(trace.hidden.size()),
            loaded_->config.layers + 1);
  for (size_t i = 0; i < trace.hidden.size(); ++i) {
    EXPECT_TRUE(Close(Values(trace.hidden[i]),
                      fixture_->Doubles("hidden." + std::to_string(i)), 1e-4))
        << "hidden " << i;
  }
  if (loaded_->config.experts > 0) ExpectRouting(trace);
}

// The fixture's gradient of a tensor. transformers keeps the experts of a
// layer in one parameter: gate_up_proj [E, 2F, C] and down_proj [E, C, F].
std::vector<double> GradientOf(const Fixture& fixture, const std::string& name,
                               const math::Shape& shape) {
  if (fixture.Has("grad." + name)) return fixture.Doubles("grad." + name);
  const size_t moe = name.find("block_sparse_moe.");
  std::string known = name;
  if (moe != std::string::npos) known.replace(moe, 16, "mlp");
  const size_t at = known.find("experts.");
  if (at == std::string::npos) return fixture.Doubles("grad." + known);
  const std::string prefix = "grad." + known.substr(0, at + 8);
  size_t digits = 0;
  const int64_t e = std::stoi(known.substr(at + 8), &digits);
  const std::string part = known.substr(at + 9 + digits);
  const int64_t size = shape.size();
  const bool down = part == "down_proj.weight" || part == "w2.weight";
  const bool up = part == "up_proj.weight" || part == "w3.weight";
  const std::vector<double> all =
      fixture.Doubles(prefix + (down ? "down_proj" : "gate_up_proj"));
  const int64_t from = down ? e * size : (2 * e + (up ? 1 : 0)) * size;
  if (static_cast<int64_t>(all.size()) < from + size) return {};
  return {all.begin() + from, all.begin() + from + size};
}

TEST_P(ModelsTest, Gradients) {
  const auto each = [&](const auto& visit) {
    model::VisitWeights(loaded_->config, decoder_->weights(), visit);
  };
  learn::Tape tape(arena_);
  each([&](const std::string&, const math::Shape&, Tensor& t) {
    tape.Watch(t);
  });
  math::Exec exec = MakeExec(&tape);
  const Batch batch(Sequences(ids_, tokens_));
  const Tensor hidden = decoder_->Forward(exec, batch);
  const Tensor logits = decoder_->Logits(exec, hidden);
  std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
  targets.push_back(-1);
  for (size_t i = tokens_ - 1; i < targets.size(); i += tokens_) {
    targets[i] = -1;
  }
  const double loss = exec.CrossEntropy(logits, targets, 0);
  const double want = fixture_->meta()["loss"].get<double>();
  EXPECT_NEAR(loss, want, 1e-4 * want);
  tape.Backward();
  int64_t tensors = 0;
  each([&](const std::string& name, const math::Shape& shape, Tensor& t) {
    ++tensors;
    EXPECT_TRUE(Close(Values(tape.Gradient(t)),
                      GradientOf(*fixture_, name, shape), 1e-3))
        << name;
  });
  EXPECT_GT(tensors, 25);
}

// Seven tokens at once, then one by one through the cache.
TEST_P(ModelsTest, GreedyThroughACache) {
  const std::vector<int32_t> want = fixture_->Ids("greedy");
  model::SequenceCache cache(loaded_->config, static_cast<int64_t>(want.size()),
                             std::max<int64_t>(loaded_->config.experts, 1));
  std::vector<int32_t> got(want.begin(), want.begin() + 7);
  while (got.size() < want.size()) {
    arena_.Reset();
    math::Exec exec = MakeExec();
    const SequenceInput input = {
        std::span<const int32_t>(got).subspan(cache.length()), &cache};
    const Batch batch({&input, 1});
    const Tensor hidden = decoder_->Forward(exec, batch);
    const Tensor last = hidden.RowSlice(hidden.rows() - 1, 1);
    model::SamplerOptions greedy;
    greedy.temperature = 0;
    got.push_back(model::Sample(Values(decoder_->Logits(exec, last)), greedy,
                                got.size()));
  }
  EXPECT_EQ(got, want);
}

class ExpertSetsTest : public ModelsTest {};

// What the masked composition answers, and what a decoder that was only ever
// given the set's experts answers.
TEST_P(ExpertSetsTest, ByMasksAndByBuilding) {
  ASSERT_FALSE(fixture_->meta()["subsets"].empty());
  for (const auto& subset : fixture_->meta()["subsets"]) {
    const auto experts = subset.get<std::vector<int>>();
    std::string tensor = "logits.only";
    ExpertMask allowed = 0;
    for (int e : experts) {
      tensor += "_" + std::to_string(e);
      allowed |= ExpertMask{1} << e;
    }
    SCOPED_TRACE(tensor);
    const std::vector<double> want = fixture_->Doubles(tensor);
    math::Exec exec = MakeExec();
    const Batch masked(Sequences(ids_, tokens_, allowed));
    const Tensor by_mask =
        decoder_->Logits(exec, decoder_->Forward(exec, masked));
    EXPECT_TRUE(Close(Values(by_mask), want, 1e-4));

    model::ModelConfig config = loaded_->config;
    config.experts = static_cast<int64_t>(experts.size());
    config.experts_per_token =
        std::min(config.experts_per_token, config.experts);
    model::ModelWeights weights = loaded_->weights;
    for (model::LayerWeights& layer : weights.layers) {
      const std::vector<model::FfnWeights> all = layer.experts;
      layer.experts.clear();
      const Tensor rows = layer.router;
      layer.router = arena_.New({config.experts, config.width});
      for (size_t i = 0; i < experts.size(); ++i) {
        layer.experts.push_back(all[experts[i]]);
        std::copy_n(rows.f32() + experts[i] * config.width, config.width,
                    layer.router.f32() + i * config.width);
      }
    }
    auto built = Decoder::Create(config, weights, model::RouterOf(config));
    ASSERT_TRUE(built.ok()) << built.status();
    const Batch whole(Sequences(ids_, tokens_));
    const Tensor by_build = built->Logits(exec, built->Forward(exec, whole));
    EXPECT_TRUE(Close(Values(by_build), want, 1e-4));
    if (GetParam().product != Product::kExact) continue;
    EXPECT_TRUE(std::ranges::equal(Values(by_mask), Values(by_build)));
  }
}

std::vector<Case> Cases(const std::vector<const char*>& names) {
  std::vector<Case> cases;
  for (const char* name : names) {
    cases.push_back({name, true, Product::kExact});
    cases.push_back({name, false, Product::kExact});
    cases.push_back({name, false, Product::kLibrary});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, ModelsTest,
                         testing::ValuesIn(Cases(
                             {"llama", "llama_tied", "llama3_rope", "qwen2",
                              "qwen3", "olmo2", "flex_olmo", "mixtral",
                              "olmoe", "qwen3_moe"})),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(All, ExpertSetsTest,
                         testing::ValuesIn(Cases({"flex_olmo"})), NameOf);

}  // namespace
}  // namespace motet::golden
