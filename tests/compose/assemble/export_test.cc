// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/export.h"

#include <cmath>

#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::Contains;
using testing::HasSubstr;

class ExportTest : public testing::TestWithParam<model::Block> {};

// Read back as any Hugging Face folder, the export gives the logits of the
// top-k composition; padding of narrow experts adds nothing but zeros.
TEST_P(ExportTest, ReadsBackWithTheSameLogits) {
  TinyOptions options;
  options.block = GetParam();
  const TinyFederation federation(options);
  const auto composition = federation.Load(federation.Lock("topk"));
  const std::string folder = federation.Path("out");
  const auto report = ExportHuggingFace(*composition, folder);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->architecture, GetParam() == model::Block::kPostNorm
                                      ? "FlexOlmoForCausalLM"
                                      : "MixtralForCausalLM");

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

INSTANTIATE_TEST_SUITE_P(Blocks, ExportTest,
                         testing::Values(model::Block::kPostNorm,
                                         model::Block::kPreNorm),
                         [](const auto& info) {
                           return info.param == model::Block::kPostNorm
                                      ? "postnorm"
                                      : "prenorm";
                         });

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
