// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/routing.h"

#include <cmath>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/compose/assemble/tiny.h"

namespace motet::measure {
namespace {

using assemble::TinyFederation;
using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;

// Expert numbers as text: "0" uses expert 0, "01" two, "" none.
Uses Of(const std::vector<std::string>& tokens) {
  Uses uses;
  for (const std::string& token : tokens) {
    math::ExpertMask used = 0;
    for (const char c : token) used |= math::ExpertMask{1} << (c - '0');
    uses.push_back(used);
  }
  return uses;
}

TEST(RoutingTest, SharesAndEntropyByHand) {
  const Uses sequences[] = {Of({"01", "0", "0"}), Of({"2"})};
  const auto share = ShareOfTokens(sequences, 4);
  EXPECT_THAT(share, ElementsAre(0.75, 0.25, 0.25, 0));
  // q = 3/5, 1/5, 1/5
  EXPECT_NEAR(Entropy(share),
              -(0.6 * std::log2(0.6) + 0.4 * std::log2(0.2)), 1e-12);
  EXPECT_DOUBLE_EQ(Entropy(std::vector<double>(8, 0.25)), 3);
  EXPECT_DOUBLE_EQ(Entropy(std::vector<double>{0, 1, 0}), 0);
  EXPECT_EQ(Entropy(std::vector<double>{0, 0}), 0);
}

TEST(RoutingTest, SegmentF1ByHand) {
  // Segments of 4. First: expert 0 three times, 1 once; second: 2 four times.
  const Uses one[] = {Of({"0", "0", "1", "0", "2", "2", "2", "2"})};
  // alpha 1/4: 0, 1 and 2 foretold: 8 hits, 12 foretold, 8 used: 16/20.
  // alpha 2/4, 3/4: 0 and 2: 7 hits, 8 foretold: 14/16.   alpha 1: 8/12.
  EXPECT_DOUBLE_EQ(SegmentF1(one, 3, 4), 14.0 / 16);
  // One token a segment: every choice is foretold.
  EXPECT_DOUBLE_EQ(SegmentF1(one, 3, 1), 1);
  // All eight: 0 three, 1 once, 2 four times: alpha 1/8: 16/32; 3/8: 14/24;
  // 4/8: 8/16.
  EXPECT_DOUBLE_EQ(SegmentF1(one, 3, 8), 14.0 / 24);
  // No whole segment; no use.
  EXPECT_TRUE(std::isnan(SegmentF1(one, 3, 9)));
  const Uses none[] = {Of({"", "", "", ""})};
  EXPECT_TRUE(std::isnan(SegmentF1(none, 3, 2)));
  // Segments do not reach from one sequence into the next.
  const Uses two[] = {Of({"0", "0", "1"}), Of({"1", "1", "0"})};
  EXPECT_DOUBLE_EQ(SegmentF1(two, 2, 2), 1);
}

TEST(RoutingTest, CacheHitRateByHand) {
  // Misses 0, 1, 2 and the second 0: at the third token 0 goes, as the next
  // two tokens use 1 and 2 only.
  const Uses one[] = {Of({"0", "1", "2", "1", "2", "0"})};
  EXPECT_DOUBLE_EQ(CacheHitRate(one, 3, 2, 2), 2.0 / 6);
  // Room for all: only the first of each misses.
  EXPECT_DOUBLE_EQ(CacheHitRate(one, 3, 3, 2), 3.0 / 6);
  // One expert a cache: hits are repetitions.
  const Uses runs[] = {Of({"0", "0", "0", "1", "1"}), Of({"1"})};
  EXPECT_DOUBLE_EQ(CacheHitRate(runs, 2, 1, 1), 3.0 / 6);
  // Foresight: expert 0 is needed again within 3, 2 and 1 are not.
  const Uses ahead[] = {Of({"0", "1", "2", "2", "0"})};
  EXPECT_DOUBLE_EQ(CacheHitRate(ahead, 3, 2, 3), 2.0 / 5);
  // With none to look at but 2's, 0 goes as the lowest: and misses.
  EXPECT_DOUBLE_EQ(CacheHitRate(ahead, 3, 2, 1), 1.0 / 5);
  // A token that uses more than the cache holds.
  const Uses wide[] = {Of({"012", "012"})};
  EXPECT_DOUBLE_EQ(CacheHitRate(wide, 3, 1, 1), 1.0 / 6);
  const Uses none[] = {Of({""})};
  EXPECT_TRUE(std::isnan(CacheHitRate(none, 3, 1, 1)));
}

class RoutingReportTest : public testing::TestWithParam<std::string> {
 protected:
  RoutingReportTest()
      : composition_(federation_.Load(federation_.Lock(GetParam()))) {
    std::vector<std::string> documents;
    for (int i = 0; i < 20; ++i) {
      for (const auto& text : TinyFederation::Documents()) {
        documents.push_back(text);
      }
    }
    domains_ = {{"code & <b>", documents}, {"legal", documents}};
    options_.window = 32;
    options_.segment = 4;
  }
  TinyFederation federation_;
  std::unique_ptr<assemble::Composition> composition_;
  std::vector<Domain> domains_;
  RoutingOptions options_;
  const std::vector<std::string> labels_ = {"base", "code", "legal",
                                            "manual", "health"};
};

TEST_P(RoutingReportTest, AddsUp) {
  const auto report =
      MeasureRouting(*composition_, labels_, domains_, options_);
  ASSERT_TRUE(report.ok()) << report.status();
  const bool anchored = GetParam() == "anchored";
  EXPECT_EQ(report->router, GetParam());
  EXPECT_EQ(report->cache_experts, anchored ? 2 : 4);
  ASSERT_EQ(report->domains.size(), 2u);
  for (const DomainRouting& domain : report->domains) {
    EXPECT_GE(domain.tokens, kRoutingTokens);
    ASSERT_EQ(domain.layers.size(), 2u);
    for (const LayerRouting& layer : domain.layers) {
      double share = 0, weight = 0;
      for (size_t e = 0; e < 5; ++e) {
        share += layer.share[e];
        weight += layer.weight[e];
      }
      // One choice a token, or the router's two.
      EXPECT_NEAR(share, anchored ? 1 : 2, 1e-9);
      if (anchored) EXPECT_NEAR(weight, 1, 1e-5);
      EXPECT_GE(layer.entropy, 0);
      EXPECT_LE(layer.entropy, std::log2(5.0) + 1e-9);
      for (const double part : {layer.srp, layer.sch}) {
        if (!std::isnan(part)) {
          EXPECT_GE(part, 0);
          EXPECT_LE(part, 1);
        }
      }
    }
  }
  // The same text, the same numbers.
  EXPECT_EQ(report->domains[0].layers[1].share,
            report->domains[1].layers[1].share);

  const auto json = nlohmann::json::parse(RoutingJson(*report));
  EXPECT_EQ(json["domains"][1]["layers"][0]["share"].size(), 5u);
  const std::string csv = RoutingCsv(*report);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 2 * 2 * 5);
  const std::string svg = RoutingSvg(*report);
  EXPECT_THAT(svg, HasSubstr("code &amp; &lt;b&gt;"));
  EXPECT_EQ(svg.find("href"), std::string::npos);
  EXPECT_THAT(svg, HasSubstr("</svg>"));
}

TEST_P(RoutingReportTest, AnExcludedExpertAnswersNothing) {
  options_.allowed = composition_->All() & ~(math::ExpertMask{2} << 0);
  const auto report =
      MeasureRouting(*composition_, labels_, domains_, options_);
  ASSERT_TRUE(report.ok()) << report.status();
  for (const LayerRouting& layer : report->domains[0].layers) {
    EXPECT_EQ(layer.share[1], 0);
    EXPECT_EQ(layer.weight[1], 0);
  }
}

TEST_P(RoutingReportTest, LittleTextIsRefused) {
  domains_[1].documents.resize(kRoutingDocuments - 1);
  const auto few = MeasureRouting(*composition_, labels_, domains_, options_);
  EXPECT_THAT(std::string(few.status().message()),
              HasSubstr("[domain legal] got"));
  // Enough documents, too few tokens: a window of 2 a document.
  domains_[1].documents.assign(100, "ab");
  domains_.erase(domains_.begin());
  EXPECT_FALSE(
      MeasureRouting(*composition_, labels_, domains_, options_).ok());
}

INSTANTIATE_TEST_SUITE_P(Routers, RoutingReportTest,
                         testing::Values("anchored", "topk"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace motet::measure
