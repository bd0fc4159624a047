// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"
#include "tests/compose/package/package_folder_fixture.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Manifest : public testing::Test {
 protected:
  static void SetUpTestSuite() { packages_ = new Packages(MakePackages()); }
  static void TearDownTestSuite() {
    delete packages_;
    packages_ = nullptr;
  }
  static std::string Text() {
    return *proto::ReadFile(packages_->expert_folder + "/manifest.json",
                            1 << 20);
  }
  static std::string Refusal(const std::string& text) {
    const auto parsed = ParseManifest(text);
    return parsed.ok() ? "" : std::string(parsed.status().message());
  }
  // The reasons against the expert's manifest after a change.
  static std::string After(
      const std::function<void(v1::ExpertManifest&)>& change) {
    v1::ExpertManifest m = packages_->expert.manifest;
    change(m);
    return absl::StrJoin(CheckManifest(m), "; ");
  }
  static Packages* packages_;
};
Packages* Manifest::packages_ = nullptr;

TEST_F(Manifest, IsReadAsWritten) {
  const auto parsed = ParseManifest(Text());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*WriteManifest(*parsed), Text());
  EXPECT_THAT(CheckManifest(*parsed), IsEmpty());
  EXPECT_EQ(parsed->domain().anchored().layers(1).pair_mean(3), 0.3f * 3);
}

TEST_F(Manifest, IsWrittenTheSameEachTime) {
  v1::ExpertManifest m = packages_->base.manifest;
  auto& map = *m.mutable_training()->mutable_hyper_parameters();
  for (int i = 0; i < 50; ++i) map[absl::StrCat("p", i)] = i;
  const std::string text = *WriteManifest(m);
  for (int i = 0; i < 5; ++i) {
    v1::ExpertManifest again = *ParseManifest(text);
    EXPECT_EQ(*WriteManifest(again), text);
  }
  EXPECT_LT(text.find("\"p10\""), text.find("\"p9\""));
}

TEST_F(Manifest, RefusesWhatReadersMightReadDifferently) {
  EXPECT_THAT(Refusal(""), HasSubstr("malformed JSON at byte"));
  EXPECT_THAT(Refusal("[]"), HasSubstr("no object"));
  EXPECT_THAT(Refusal("{'id': 'x'}"), HasSubstr("malformed JSON"));
  EXPECT_THAT(Refusal("{\"id\": \"x\",}"), HasSubstr("malformed JSON"));
  EXPECT_THAT(Refusal("{\"id\": \"x\", \"id\": \"y\"}"),
              HasSubstr("key \"id\" twice"));
  EXPECT_THAT(Refusal("{\"schemaVersion\": 1, \"more\": 2, \"domain\": "
                      "{\"anchored\": {\"layers\": [{}, {\"x\": 1}]}}}"),
              AllOf(HasSubstr("schemaVersion"), HasSubstr("more"),
                    HasSubstr("domain.anchored.layers[1].x")));
  EXPECT_THAT(Refusal("{\"schema_version\": \"x\"}"),
              HasSubstr("a value that does not fit"));
  EXPECT_THAT(Refusal("{\"schema_version\": -1}"),
              HasSubstr("a value that does not fit"));
  EXPECT_THAT(Refusal("{\"files\": {\"path\": \"x\"}, \"id\": 5, \"title\": "
                      "null, \"domain\": [], \"schema_version\": true}"),
              AllOf(HasSubstr("files is not an array"),
                    HasSubstr("id is not text"),
                    HasSubstr("title is not text"),
                    HasSubstr("domain is not an object"),
                    HasSubstr("schema_version is not a number")));
  EXPECT_THAT(Refusal("{\"id\": \"\xff\"}"), HasSubstr("malformed JSON"));
  EXPECT_THAT(Refusal(std::string(100000, '[')), HasSubstr("deeper than 64"));
  EXPECT_THAT(Refusal(std::string((64 << 20) + 1, ' ')),
              HasSubstr("at most 67108864"));
}

TEST_F(Manifest, EveryTruncationIsRefused) {
  const std::string text = Text();
  for (size_t n = 0; n + 2 < text.size(); n += 7) {
    EXPECT_NE(Refusal(text.substr(0, n)), "") << n;
  }
}

TEST_F(Manifest, NamesEachDefect) {
  using M = v1::ExpertManifest;
  EXPECT_THAT(After([](M& m) { m.set_schema_version(2); }),
              HasSubstr("schema_version is 2"));
  EXPECT_THAT(After([](M& m) { m.set_kind("soup"); }),
              HasSubstr("kind is \"soup\""));
  for (const char* id :
       {"", "a", "a/b", "a/b@1", "a/b@1.2", "a/b@1.2.x", "a/b@01.2.3",
        "A/b@1.2.3", "a/B@1.2.3", "/b@1.2.3", "a/@1.2.3", "a/b@1.2.3-",
        "a/b/c@1.2.3", "a/b@1.2.3@4", "a/../b@1.2.3"}) {
    EXPECT_THAT(After([&](M& m) { m.set_id(id); }), HasSubstr("id is \""))
        << id;
  }
  EXPECT_EQ(After([](M& m) { m.set_id("a.b-c/d-9@0.10.3-rc.1"); }), "");
  EXPECT_THAT(After([](M& m) { m.mutable_base()->set_weights_sha256("AB"); }),
              HasSubstr("base.weights_sha256 is \"AB\""));
  EXPECT_THAT(After([](M& m) {
                m.set_frozen_sha256(std::string(64, 'A'));
              }),
              HasSubstr("frozen_sha256"));
  const auto embedder = [](uint32_t width, const std::string& sha256) {
    return After([&](M& m) {
      m.mutable_router_row()->set_source("trained");
      v1::EmbedderRecord* e = m.mutable_router_row()->mutable_embedder();
      e->set_width(width);
      e->set_sha256(sha256);
      e->set_documents(7);
    });
  };
  EXPECT_EQ(embedder(384, std::string(64, 'a')), "");
  EXPECT_THAT(embedder(384, "a"), HasSubstr("router_row.embedder.sha256"));
  EXPECT_THAT(embedder(0, std::string(64, 'a')),
              HasSubstr("router_row.embedder is of width 0"));
  EXPECT_THAT(After([](M& m) { m.clear_base(); }),
              AllOf(HasSubstr("base.id"), HasSubstr("base.manifest_sha256")));
  EXPECT_THAT(After([](M& m) { m.mutable_model()->set_block("gpt"); }),
              HasSubstr("model.block is \"gpt\""));
  EXPECT_THAT(After([](M& m) { m.mutable_model()->set_layers(4000000000u); }),
              HasSubstr("model.layers is 4000000000"));
  EXPECT_THAT(After([](M& m) { m.set_title("a\nb"); }),
              HasSubstr("title is \"a\\nb\", want no control characters"));
  EXPECT_THAT(After([](M& m) {
                m.mutable_training()->add_loss_curve(std::nan(""));
              }),
              HasSubstr("training.loss_curve is nan"));
  EXPECT_THAT(After([](M& m) {
                (*m.mutable_training()->mutable_hyper_parameters())["x"] =
                    INFINITY;
              }),
              HasSubstr("hyper_parameters[0].value is inf"));
  EXPECT_THAT(After([](M& m) { m.set_created_at("yesterday"); }),
              HasSubstr("created_at is \"yesterday\""));
  EXPECT_THAT(After([](M& m) { m.mutable_domain()->set_domain("A b"); }),
              HasSubstr("domain.domain is \"A b\""));
  EXPECT_THAT(After([](M& m) {
                m.mutable_training()->set_plan_sha256("x");
              }),
              HasSubstr("training.plan_sha256"));
}

TEST_F(Manifest, NamesDefectsOfFiles) {
  using M = v1::ExpertManifest;
  EXPECT_THAT(After([](M& m) { m.mutable_files(0)->set_path("../x"); }),
              AllOf(HasSubstr("files has \"../x\""),
                    HasSubstr("files lacks README.md")));
  EXPECT_THAT(After([](M& m) { *m.add_files() = m.files(0); }),
              HasSubstr("twice"));
  EXPECT_THAT(After([](M& m) { m.add_files()->set_path("model.sig"); }),
              HasSubstr("other than manifest.json and model.sig"));
  EXPECT_THAT(After([](M& m) {
                m.mutable_files(0)->set_size_bytes(UINT64_MAX);
              }),
              HasSubstr("files come to more than"));
  EXPECT_THAT(After([](M& m) {
                for (int i = 0; i < 70; ++i) {
                  *m.add_files() = m.files(0);
                  m.mutable_files(m.files_size() - 1)
                      ->set_path(absl::StrCat("f", i));
                }
              }),
              HasSubstr("72 files, want at most 64"));
}

TEST_F(Manifest, NamesDefectsOfTensors) {
  using M = v1::ExpertManifest;
  EXPECT_THAT(After([](M& m) { m.clear_tensors(); }),
              AllOf(HasSubstr("tensors is empty"),
                    HasSubstr("tensors lacks layers.0.mlp.gate_proj.weight")));
  EXPECT_THAT(After([](M& m) { *m.add_tensors() = m.tensors(0); }),
              HasSubstr("twice"));
  EXPECT_THAT(After([](M& m) { m.mutable_tensors(0)->set_name("lm_head"); }),
              AllOf(HasSubstr("tensors has \"lm_head\", which"),
                    HasSubstr("tensors lacks layers.0")));
  EXPECT_THAT(After([](M& m) { m.mutable_tensors(0)->set_dtype("BF16"); }),
              HasSubstr("is \"BF16\" ["));
  EXPECT_THAT(After([](M& m) { m.mutable_tensors(0)->add_shape(1); }),
              HasSubstr(", 1], want F32 ["));
  EXPECT_THAT(After([](M& m) { m.mutable_tensors(0)->set_sha256(""); }),
              HasSubstr("sha256 of tensor"));
  EXPECT_THAT(After([](M& m) { m.mutable_model()->set_ffn_width(7); }),
              HasSubstr("want F32 [7, 4]"));
}

TEST_F(Manifest, NamesDefectsOfStatistics) {
  using M = v1::ExpertManifest;
  const auto anchored = [](M& m) -> v1::AnchoredStatistics& {
    return *m.mutable_domain()->mutable_anchored();
  };
  EXPECT_THAT(After([&](M& m) { anchored(m).clear_layers(); }),
              HasSubstr("domain.anchored has 0 layers, want 2"));
  EXPECT_THAT(After([&](M& m) {
                anchored(m).mutable_layers(1)->add_pair_mean(0);
                anchored(m).mutable_layers(0)->clear_base_mean();
                anchored(m).mutable_layers(0)->set_threshold(-1);
              }),
              AllOf(HasSubstr("layers[1].pair_mean has 5 numbers, want 4"),
                    HasSubstr("layers[0].base_mean has 0 numbers"),
                    HasSubstr("layers[0].threshold is -1, want 0 or more")));
  // What would capture the selection or keep a gate from ever closing.
  EXPECT_THAT(After([&](M& m) {
                anchored(m).set_noise(std::numeric_limits<double>::infinity());
                anchored(m).mutable_layers(0)->set_base_mean(
                    1, std::numeric_limits<float>::infinity());
                anchored(m).mutable_layers(1)->set_threshold(
                    std::numeric_limits<float>::quiet_NaN());
              }),
              AllOf(HasSubstr("noise is inf, want 0 to 100"),
                    HasSubstr("layers[0].base_mean has numbers that are not "
                              "finite"),
                    HasSubstr("layers[1].threshold is nan")));
  EXPECT_THAT(After([&](M& m) {
                anchored(m).set_smoothing(1);
                anchored(m).set_gate_quantile(1.5);
                anchored(m).set_noise(-1);
              }),
              AllOf(HasSubstr("smoothing is 1"),
                    HasSubstr("gate_quantile is 1.5"), HasSubstr("noise")));
  EXPECT_THAT(After([&](M& m) {
                v1::GateThresholds* gate = anchored(m).add_gates();
                gate->set_quantile(0.9);
                gate->add_thresholds(1);
                gate->add_thresholds(1);
                gate->set_rank(5);
              }),
              HasSubstr("rank 5 and 2 thresholds, want"));
}

TEST_F(Manifest, ChecksLicenceDates) {
  const auto dates = [](const char* from, const char* to) {
    return After([&](v1::ExpertManifest& m) {
      m.mutable_licence()->set_not_before(from);
      m.mutable_licence()->set_not_after(to);
    });
  };
  EXPECT_EQ(dates("2026-01-01", "2028-02-29"), "");
  EXPECT_EQ(dates("2026-01-01T00:00:00Z", "2026-01-01"), "");
  EXPECT_EQ(dates("", "2026-12-31T23:59:60.5Z"), "");
  EXPECT_THAT(dates("2027-01-01", "2026-01-01"), HasSubstr("is before"));
  EXPECT_THAT(dates("2026-01-01T02:00:00Z", "2026-01-01T01:00:00Z"),
              HasSubstr("is before"));
  for (const char* bad :
       {"2026", "2026-13-01", "2026-00-01", "2026-02-29", "2026-1-1",
        "2026-01-01T", "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00",
        "2026-01-01T25:00:00Z", "2026-01-01 00:00:00Z", "0000-01-01",
        "2026-01-01T00:00:00.Z"}) {
    EXPECT_THAT(dates(bad, ""), HasSubstr("licence.not_before is")) << bad;
  }
}

TEST_F(Manifest, ABaseHasNoBase) {
  v1::ExpertManifest m = packages_->base.manifest;
  m.mutable_base()->set_id("x");
  m.set_frozen_sha256(std::string(64, 'a'));
  m.mutable_files()->RemoveLast();
  EXPECT_THAT(CheckManifest(m),
              ElementsAre("files lacks weights.safetensors",
                          "a base has a base", "a base has a frozen_sha256"));
}

}  // namespace
}  // namespace motet::package
