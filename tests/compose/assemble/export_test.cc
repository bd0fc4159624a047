// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/export.h"

#include <cmath>

#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::Contains;
using testing::HasSubstr;

struct Family {
  model::Block block;
  model::QkNorm qk_norm;
  const char* architecture;
  const char* name;
};
class ExportTest : public testing::TestWithParam<Family> {};

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// The same mixture with QK-norm over all heads.
void NormWhole(Composition& composition) {
  model::ModelConfig& config = composition.config;
  config.qk_norm = model::QkNorm::kWhole;
  model::ModelWeights weights = composition.decoder->weights();
  const auto norm = [&](int64_t width, float from) {
    composition.storage.push_back(std::make_unique<float[]>(width));
    math::Tensor t;
    t.data = composition.storage.back().get();
    t.shape = {width};
    for (int64_t i = 0; i < width; ++i) t.f32()[i] = from + 0.03f * i;
    return t;
  };
  for (model::LayerWeights& layer : weights.layers) {
    layer.q_norm = norm(config.heads * config.head_dim, 0.8f);
    layer.k_norm = norm(config.kv_heads * config.head_dim, 1.1f);
  }
  auto decoder = model::Decoder::Create(config, std::move(weights),
                                        composition.decoder->router());
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  composition.decoder = std::make_unique<model::Decoder>(*std::move(decoder));
}

// Every file of a folder, by name.
std::map<std::string, std::string> Files(const std::string& folder) {
  std::map<std::string, std::string> files;
  const std::vector<std::string> names = *proto::ListDirectory(folder);
  for (const std::string& name : names) {
    files[name] = *proto::ReadFile(folder + "/" + name, 1 << 30);
  }
  return files;
}

// Read back as any Hugging Face folder, the export gives the logits of the
// top-k composition; padding of narrow experts adds nothing but zeros.
TEST_P(ExportTest, ReadsBackWithTheSameLogits) {
  TinyOptions options;
  options.block = GetParam().block;
  // No architecture of transformers is a dense model with OLMoE's choices, so
  // no base can be one: there the mixture is made so.
  const bool olmoe = GetParam().block == model::Block::kPreNorm &&
                     GetParam().qk_norm == model::QkNorm::kWhole;
  options.qk_norm = olmoe ? model::QkNorm::kNone : GetParam().qk_norm;
  const TinyFederation federation(options);
  const auto composition = federation.Load(federation.Lock("topk"));
  if (olmoe) NormWhole(*composition);
  const std::string folder = federation.Path("out");
  const auto report = ExportHuggingFace(*composition, folder);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->architecture, GetParam().architecture);

  const auto back = package::LoadModel(folder);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ((*back)->config.experts, 5);
  EXPECT_EQ((*back)->config.ffn_width, 40);
  ASSERT_NE((*back)->tokenizer, nullptr);
  model::Router router;
  router.k = (*back)->config.experts_per_token;
  router.renormalise = (*back)->config.renormalise;
  const auto decoder =
      model::Decoder::Create((*back)->config, (*back)->weights, router);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  const auto ids = federation.Ids(50);
  const auto want = LogitsOf(*composition->decoder, ids, composition->All());
  const auto got = LogitsOf(*decoder, ids, ~math::ExpertMask{0});
  ASSERT_EQ(got.size(), want.size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    worst = std::max<double>(worst, std::abs(got[i] - want[i]));
    largest = std::max<double>(largest, std::abs(want[i]));
  }
  EXPECT_LT(worst, 1e-5 * largest);
  EXPECT_EQ(report->lost.size(), 1u);  // expert sets and terms, no router
  // Where the parts came from travels with the export.
  EXPECT_EQ(*proto::ReadFile(folder + "/motet.lock", 1 << 20),
            WriteLock(composition->lock));

  // A second export into the same folder loses nothing of the first.
  const auto again = ExportHuggingFace(*composition, folder);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
}

INSTANTIATE_TEST_SUITE_P(
    Families, ExportTest,
    testing::Values(Family{model::Block::kPostNorm, model::QkNorm::kWhole,
                           "FlexOlmoForCausalLM", "flexolmo"},
                    Family{model::Block::kPreNorm, model::QkNorm::kNone,
                           "MixtralForCausalLM", "mixtral"},
                    Family{model::Block::kPreNorm, model::QkNorm::kWhole,
                           "OlmoeForCausalLM", "olmoe"},
                    Family{model::Block::kPreNorm, model::QkNorm::kPerHead,
                           "Qwen3MoeForCausalLM", "qwen3moe"}),
    [](const auto& info) { return info.param.name; });

// Beyond the widest expert there are zeros, bit for bit, and nothing else
// has changed.
TEST(ExportPaddingTest, IsZerosBesideTheNumbers) {
  const TinyFederation federation;
  const auto composition = federation.Load(federation.Lock("topk"));
  const std::string folder = federation.Path("out");
  ASSERT_TRUE(ExportHuggingFace(*composition, folder).ok());
  const auto back = package::LoadModel(folder);
  ASSERT_TRUE(back.ok()) << back.status();
  for (size_t l = 0; l < 2; ++l) {
    const auto& from = composition->decoder->weights().layers[l].experts;
    const auto& to = (*back)->weights.layers[l].experts;
    ASSERT_EQ(from.size(), to.size());
    for (size_t e = 0; e < from.size(); ++e) {
      for (const auto part : {&model::FfnWeights::gate, &model::FfnWeights::up,
                              &model::FfnWeights::down}) {
        const math::Tensor& a = from[e].*part;
        const math::Tensor& b = to[e].*part;
        for (int64_t r = 0; r < b.rows(); ++r) {
          for (int64_t c = 0; c < b.cols(); ++c) {
            const float want = r < a.rows() && c < a.cols()
                                   ? a.f32()[r * a.cols() + c]
                                   : 0.0f;
            ASSERT_EQ(b.f32()[r * b.cols() + c], want) << l << " " << e;
          }
        }
      }
    }
  }
}

TEST(ExportRefusedTest, NamesTheFieldAndWritesNothing) {
  const TinyFederation federation;
  v1::CompositionLock lock = federation.Lock("topp");
  lock.mutable_router()->set_null_experts(2);
  const auto shared = ExportHuggingFace(
      *federation.Load(federation.Lock("shared")), federation.Path("out"));
  EXPECT_THAT(Message(shared.status()), HasSubstr("router.shared = true"));
  const std::string folder = federation.Path("out");
  auto report = ExportHuggingFace(*federation.Load(lock), folder);
  EXPECT_THAT(Message(report.status()),
              testing::AllOf(HasSubstr("router.kind = \"topp\""),
                             HasSubstr("router.null_experts = 2")));
  EXPECT_FALSE(proto::Exists(folder));
  LoadOptions plain;
  plain.router = "topk";
  EXPECT_TRUE(
      ExportHuggingFace(*federation.Load(federation.Lock("topp"), plain),
                        folder)
          .ok());

  TinyOptions options;
  options.block = model::Block::kPreNorm;
  const TinyFederation mixtral(options);
  lock = mixtral.Lock("topk");
  lock.mutable_router()->set_renormalise(false);
  report = ExportHuggingFace(*mixtral.Load(lock), mixtral.Path("out"));
  EXPECT_THAT(Message(report.status()),
              testing::AllOf(HasSubstr("router.renormalise = false"),
                             HasSubstr("MixtralForCausalLM")));
  options.qkv_bias = true;
  const TinyFederation biased(options);
  report =
      ExportHuggingFace(*biased.Load(biased.Lock("topk")), biased.Path("out"));
  EXPECT_THAT(Message(report.status()), HasSubstr("attention_bias = true"));
  EXPECT_FALSE(proto::Exists(biased.Path("out")));
}

// An earlier export gives way only when asked to, and only to a whole one.
TEST(ExportReplaceTest, TakesThePlaceOfAnExportAndOfNothingElse) {
  const TinyFederation federation;
  const std::string folder = federation.Path("out");
  const auto all = federation.Load(federation.Lock("topk"));
  ASSERT_TRUE(ExportHuggingFace(*all, folder).ok());
  const auto before = Files(folder);
  LoadOptions two;
  two.all = false;
  two.only = {1, 2};
  const auto less = federation.Load(federation.Lock("topk"), two);
  const auto refused = ExportHuggingFace(*less, folder);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(refused.status()), HasSubstr("--replace"));
  EXPECT_EQ(Files(folder), before);

  // What a killed export left is in nobody's way.
  std::filesystem::create_directories(federation.Path(".out.partial"));
  ExportOptions replace;
  replace.replace = true;
  ASSERT_TRUE(ExportHuggingFace(*less, folder, replace).ok());
  EXPECT_EQ((*package::LoadModel(folder))->config.experts, 3);
  EXPECT_FALSE(proto::Exists(federation.Path(".out.partial")));
  EXPECT_FALSE(proto::Exists(federation.Path(".out.partial.lock")));

  const std::string other = federation.Path("mine");
  std::filesystem::create_directories(other);
  ASSERT_TRUE(proto::WriteFileAtomic(other + "/letter.txt", "dear").ok());
  EXPECT_EQ(ExportHuggingFace(*less, other, replace).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Files(other).size(), 1u);
}

TEST(ExportAnchoredTest, SaysWhatIsLost) {
  const TinyFederation federation;
  const auto composition = federation.Load(federation.Lock());
  const auto report =
      ExportHuggingFace(*composition, federation.Path("out"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->lost, Contains(HasSubstr("plain top-2")));
  EXPECT_THAT(report->lost, Contains(HasSubstr("smoothing")));
  EXPECT_THAT(report->lost, Contains(HasSubstr("typicality gate")));
}

TEST(ExportAnchoredTest, NoPaddingFileStaysBehind) {
  const TinyFederation federation;
  const std::string folder = federation.Path("out");
  const auto report =
      ExportHuggingFace(*federation.Load(federation.Lock("topk")), folder);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(*proto::ListDirectory(folder),
              testing::UnorderedElementsAre(
                  "config.json", "model.safetensors", "motet.lock",
                  "tokenizer.json", "tokenizer_config.json"));
}

}  // namespace
}  // namespace motet::assemble
