// SPDX-License-Identifier: Apache-2.0
#include "compose/model/config.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/limits.h"

namespace motet::model {
namespace {

using ::testing::HasSubstr;

ModelConfig Tiny(Block block, int64_t experts) {
  ModelConfig config;
  config.block = block;
  if (block == Block::kPreNorm) config.qk_norm = QkNorm::kNone;
  config.vocabulary = 331;
  config.width = 48;
  config.layers = 3;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.ffn_width = 100;
  config.max_positions = 128;
  config.norm_eps = 1e-5f;
  config.rope_theta = 10000;
  config.experts = experts;
  config.experts_per_token = experts == 0 ? 0 : 2;
  config.renormalise = experts > 0 && block == Block::kPreNorm;
  config.bos_id = 1;
  config.eos_id = 2;
  config.pad_id = 0;
  return config;
}

// The written config with some fields set (null removes nothing: it is a
// value) or, by an empty object, removed.
std::string With(const nlohmann::json& changes, Block block = Block::kPreNorm,
                 int64_t experts = 0) {
  nlohmann::json json =
      nlohmann::json::parse(WriteConfig(Tiny(block, experts)));
  for (const auto& [key, value] : changes.items()) {
    if (value == nlohmann::json::object()) {
      json.erase(key);
    } else {
      json[key] = value;
    }
  }
  return json.dump();
}

// The message of the error that parsing gives.
std::string Refusal(const std::string& json) {
  const auto config = ParseConfig(json);
  if (config.ok()) return "accepted";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

const nlohmann::json kAbsent = nlohmann::json::object();

TEST(ConfigTest, EveryFamilyComesBackAsWritten) {
  for (Block block : {Block::kPreNorm, Block::kPostNorm}) {
    for (int64_t experts : {0, 1, 4, 128}) {
      for (bool tied : {false, true}) {
        ModelConfig config = Tiny(block, experts);
        config.experts_per_token = std::min<int64_t>(experts, 2);
        config.tied_head = tied;
        config.norm_eps = 1e-6f;
        config.rope_theta = 5e5;
        config.head_dim = 10;  // not width / heads
        config.pad_id = -1;
        const auto back = ParseConfig(WriteConfig(config));
        ASSERT_TRUE(back.ok()) << back.status();
        EXPECT_EQ(*back, config);
      }
    }
  }
}

TEST(ConfigTest, WrittenFieldsAreExplicit) {
  const auto json =
      nlohmann::json::parse(WriteConfig(Tiny(Block::kPostNorm, 4)));
  EXPECT_EQ(json["architectures"],
            nlohmann::json::array({"FlexOlmoForCausalLM"}));
  EXPECT_EQ(json["model_type"], "flex_olmo");
  EXPECT_EQ(json["head_dim"], 8);
  EXPECT_EQ(json["attention_bias"], false);
  EXPECT_EQ(json["rope_theta"], 10000.0);
  EXPECT_EQ(json["rope_parameters"]["rope_theta"], 10000.0);
  EXPECT_EQ(json["rope_parameters"]["rope_type"], "default");
  EXPECT_EQ(json["rms_norm_eps"].dump(), "1e-05");
  EXPECT_EQ(json["norm_topk_prob"], false);
  EXPECT_EQ(json["num_experts"], 4);
  EXPECT_EQ(json["num_experts_per_tok"], 2);
  EXPECT_EQ(json["tie_word_embeddings"], false);
  ModelConfig no_pad = Tiny(Block::kPostNorm, 0);
  no_pad.pad_id = -1;
  EXPECT_TRUE(
      nlohmann::json::parse(WriteConfig(no_pad))["pad_token_id"].is_null());
}

TEST(ConfigTest, ReadsWhatOlderAndNewerFilesLeaveOut) {
  // transformers 5: theta in rope_parameters alone; head_dim from the widths;
  // no grouped heads.
  auto config = ParseConfig(With({{"rope_theta", kAbsent},
                                  {"head_dim", kAbsent},
                                  {"num_key_value_heads", kAbsent},
                                  {"tie_word_embeddings", kAbsent}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->kv_heads, 6);
  EXPECT_FALSE(config->tied_head);
  // transformers 4: theta at the top alone, rope_scaling null.
  config = ParseConfig(With({{"rope_parameters", kAbsent},
                             {"rope_scaling", nullptr},
                             {"torch_dtype", "bfloat16"},
                             {"rope_interleaved", false},
                             {"eos_token_id", {2}}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_EQ(config->eos_id, 2);
}

// One config of each family, with the choices that it alone has.
std::vector<ModelConfig> EveryFamily() {
  std::vector<ModelConfig> all;
  const auto add = [&](int64_t experts, Block block, QkNorm norm) {
    ModelConfig config = Tiny(block, experts);
    config.qk_norm = norm;
    all.push_back(config);
    return &all.back();
  };
  add(0, Block::kPreNorm, QkNorm::kNone);
  all.back().rope_scaling = {8, 1, 4, 64};
  all.back().more_eos_ids = {5, 7};
  add(0, Block::kPreNorm, QkNorm::kNone)->window = 16;
  add(0, Block::kPreNorm, QkNorm::kNone)->family = Family::kMistral;
  add(0, Block::kPreNorm, QkNorm::kNone)->qkv_bias = true;
  ModelConfig* late = add(0, Block::kPreNorm, QkNorm::kNone);
  late->qkv_bias = true;
  late->window = 8;
  late->window_from = 2;
  add(0, Block::kPreNorm, QkNorm::kPerHead)->head_dim = 16;
  add(0, Block::kPostNorm, QkNorm::kWhole);
  add(4, Block::kPreNorm, QkNorm::kNone)->window = 16;
  add(6, Block::kPreNorm, QkNorm::kWhole)->renormalise = false;
  add(5, Block::kPreNorm, QkNorm::kPerHead)->window = 8;
  add(4, Block::kPostNorm, QkNorm::kWhole);
  return all;
}

TEST(ConfigTest, EveryFamilysChoicesComeBack) {
  const char* const names[] = {
      "LlamaForCausalLM",   "MistralForCausalLM", "MistralForCausalLM",
      "Qwen2ForCausalLM",   "Qwen2ForCausalLM",   "Qwen3ForCausalLM",
      "Olmo2ForCausalLM",   "MixtralForCausalLM", "OlmoeForCausalLM",
      "Qwen3MoeForCausalLM", "FlexOlmoForCausalLM"};
  const std::vector<ModelConfig> all = EveryFamily();
  ASSERT_EQ(all.size(), std::size(names));
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_STREQ(Architecture(all[i]), names[i]);
    EXPECT_TRUE(CheckExport(all[i]).ok());
    const auto back = ParseConfig(WriteConfig(all[i]));
    ASSERT_TRUE(back.ok()) << names[i] << back.status();
    EXPECT_EQ(*back, all[i]) << names[i];
  }
}

TEST(ConfigTest, ChoicesWithoutANameAreNotExported) {
  ModelConfig config = Tiny(Block::kPreNorm, 4);
  config.renormalise = false;
  EXPECT_EQ(Architecture(config), nullptr);
  EXPECT_THAT(std::string(CheckExport(config).message()),
              HasSubstr("got router.renormalise = false (want true) for "
                        "MixtralForCausalLM"));
  config = Tiny(Block::kPreNorm, 4);
  config.qkv_bias = true;
  EXPECT_THAT(std::string(CheckExport(config).message()),
              HasSubstr("attention_bias = true (want no bias)"));
  EXPECT_TRUE(CheckConfig(config).ok());
}

std::string FamilyWith(size_t family, const nlohmann::json& changes) {
  nlohmann::json json =
      nlohmann::json::parse(WriteConfig(EveryFamily()[family]));
  for (const auto& [key, value] : changes.items()) {
    if (value == kAbsent) {
      json.erase(key);
    } else {
      json[key] = value;
    }
  }
  return json.dump();
}

TEST(ConfigTest, FamiliesRefuseWhatTheyDoNotRunByName) {
  const struct {
    size_t family;
    nlohmann::json change;
    const char* says;
  } cases[] = {
      {1, {{"sliding_window", kAbsent}}, "sliding_window absent"},
      {1, {{"sliding_window", 0}}, "sliding_window = 0"},
      {1, {{"num_key_value_heads", kAbsent}}, "num_key_value_heads absent"},
      {3, {{"layer_types", {"sliding_attention", "full_attention",
                            "full_attention"}}},
       "layer_types = [\"sliding"},
      {4, {{"max_window_layers", kAbsent}}, "max_window_layers absent"},
      {4, {{"sliding_window", kAbsent}}, "sliding_window absent"},
      {5, {{"head_dim", kAbsent}}, "head_dim absent"},
      {5, {{"attention_bias", true}}, "attention_bias = true"},
      {8, {{"clip_qkv", 8.0}}, "clip_qkv = 8.0"},
      {8, {{"num_experts_per_tok", 7}}, "num_experts_per_tok = 7"},
      {8, {{"num_local_experts", 5}}, "num_local_experts = 5"},
      {9, {{"decoder_sparse_step", 2}}, "decoder_sparse_step = 2"},
      {9, {{"mlp_only_layers", {1}}}, "mlp_only_layers = [1]"},
      {9, {{"moe_intermediate_size", kAbsent}},
       "moe_intermediate_size absent"},
      {9, {{"shared_expert_intermediate_size", 8}},
       "shared_expert_intermediate_size = 8 (want no such field"},
      {0, {{"rope_parameters", {{"rope_type", "llama3"},
                                {"rope_theta", 1e4},
                                {"factor", 8.0},
                                {"low_freq_factor", 4.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 64}}},
           {"rope_scaling", kAbsent}},
       "low_freq_factor = 4, high_freq_factor = 4"},
  };
  for (const auto& [family, change, says] : cases) {
    EXPECT_THAT(Refusal(FamilyWith(family, change)), HasSubstr(says))
        << family << " " << change;
  }
}

TEST(ConfigTest, SpellingsOfTransformers4And5AreTheSameModel) {
  const std::vector<ModelConfig> all = EveryFamily();
  for (size_t i = 0; i < all.size(); ++i) {
    for (const nlohmann::json& change :
         {nlohmann::json{{"rope_parameters", kAbsent}},
          nlohmann::json{{"rope_theta", kAbsent},
                         {"rope_scaling", kAbsent}}}) {
      const auto config = ParseConfig(FamilyWith(i, change));
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_EQ(*config, all[i]);
    }
  }
  // Qwen as transformers 4 wrote it: a window that is not used.
  auto config = ParseConfig(FamilyWith(
      3, {{"sliding_window", 32768}, {"max_window_layers", 28}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->window, 0);
  // And the layers that it names must be those that the numbers say.
  config = ParseConfig(FamilyWith(
      4, {{"layer_types",
           {"full_attention", "full_attention", "sliding_attention"}}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->window_from, 2);
  // The number of experts by either name.
  config = ParseConfig(
      FamilyWith(9, {{"num_experts", kAbsent}, {"num_local_experts", 5}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->experts, 5);
}

// transformers 5.23's _compute_llama3_parameters, theta 500000, factor 8, low
// 1, high 4, 64 original positions, head_dim 8.
TEST(ConfigTest, Llama3ScalingSlowsSlowPairs) {
  ModelConfig config = Tiny(Block::kPreNorm, 0);
  config.rope_theta = 500000;
  config.rope_scaling = {8, 1, 4, 64};
  const std::vector<double> scaled = RopeFrequencies(config);
  config.rope_scaling = {};
  const std::vector<double> plain = RopeFrequencies(config);
  ASSERT_EQ(scaled.size(), 4u);
  EXPECT_EQ(scaled[0], 1);  // 10 turns in 64 positions
  EXPECT_DOUBLE_EQ(plain[1], std::pow(500000.0, -0.25));
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8) << i;
  }
}

TEST(ConfigTest, RefusesWhatWouldChangeTheMathematicsByNameAndValue) {
  const struct {
    nlohmann::json change;
    const char* says;
  } cases[] = {
      {{{"architectures", {"GPT2LMHeadModel"}}},
       "architectures = [\"GPT2LMHeadModel\"]"},
      {{{"architectures", kAbsent}}, "architectures absent"},
      {{{"architectures", "LlamaForCausalLM"}},
       "architectures = \"LlamaForCausalLM\""},
      {{{"model_type", "olmo2"}}, "model_type = \"olmo2\""},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}},
       "rope_scaling = {\"factor\":2.0,\"type\":\"linear\"}"},
      {{{"rope_parameters", {{"rope_type", "llama3"}, {"rope_theta", 1e4}}}},
       "rope_parameters.factor absent"},
      {{{"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}}},
       "\"rope_type\":\"yarn\""},
      {{{"rope_scaling", {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 64}}}},
       "rope_scaling = {"},
      {{{"rope_parameters",
         {{"rope_type", "default"}, {"rope_theta", 1e4}, {"factor", 8}}}},
       "factor = 8"},
      {{{"rope_parameters",
         {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}}}},
       "partial_rotary_factor = 0.5"},
      {{{"rope_theta", 5e5}}, "rope_theta = 500000.0 (want 10000"},
      {{{"attention_bias", true}}, "attention_bias = true"},
      {{{"mlp_bias", true}}, "mlp_bias = true"},
      {{{"sliding_window", 4096}}, "sliding_window = 4096"},
      {{{"use_sliding_window", true}}, "use_sliding_window = true"},
      {{{"layer_types",
         {"sliding_attention", "full_attention", "full_attention"}}},
       "layer_types = [\"sliding_attention\""},
      {{{"hidden_act", "gelu"}}, "hidden_act = \"gelu\""},
      {{{"attention_dropout", 0.1}}, "attention_dropout = 0.1"},
      {{{"pretraining_tp", 2}}, "pretraining_tp = 2"},
      {{{"clip_qkv", 8.0}}, "clip_qkv = 8.0"},
      {{{"logit_scale", 0.5}}, "logit_scale = 0.5 (want no such field"},
      {{{"quantization_config", {{"bits", 4}}}}, "quantization_config = "},
      {{{"num_experts", 4}}, "num_experts = 4 (want no such field"},
  };
  for (const auto& [change, says] : cases) {
    EXPECT_THAT(Refusal(With(change)), HasSubstr(says)) << change;
  }
}

TEST(ConfigTest, RefusesWrongTypesAndAbsurdSizes) {
  const struct {
    nlohmann::json change;
    const char* says;
  } cases[] = {
      {{{"hidden_size", "48"}}, "hidden_size = \"48\""},
      {{{"hidden_size", 48.0}}, "hidden_size = 48.0"},
      {{{"hidden_size", kAbsent}}, "hidden_size absent"},
      {{{"hidden_size", nullptr}}, "hidden_size = null"},
      {{{"num_hidden_layers", -3}}, "num_hidden_layers = -3"},
      {{{"num_hidden_layers", 0}}, "num_hidden_layers = 0"},
      {{{"num_hidden_layers", 2000}}, "num_hidden_layers = 2000"},
      {{{"vocab_size", uint64_t{1} << 63}}, "vocab_size = 9223372036854775808"},
      {{{"vocab_size", 5000000}}, "vocab_size = 5000000"},
      {{{"num_attention_heads", 0}}, "num_attention_heads = 0"},
      {{{"num_attention_heads", 0}, {"head_dim", kAbsent}},
       "num_attention_heads"},
      {{{"num_attention_heads", 7}, {"head_dim", kAbsent}},
       "hidden_size = 48 (want a multiple"},
      {{{"num_key_value_heads", 4}}, "num_key_value_heads = 4"},
      {{{"num_key_value_heads", 0}}, "num_key_value_heads = 0"},
      {{{"head_dim", 7}}, "head_dim = 7"},
      {{{"rms_norm_eps", kAbsent}}, "rms_norm_eps absent"},
      {{{"rms_norm_eps", 0}}, "rms_norm_eps = 0"},
      {{{"rms_norm_eps", -1e-6}}, "rms_norm_eps"},
      {{{"rope_theta", kAbsent}, {"rope_parameters", kAbsent}},
       "rope_theta absent"},
      {{{"rope_theta", "1e4"}, {"rope_parameters", kAbsent}},
       "rope_theta = \"1e4\""},
      {{{"rope_theta", 0.5}, {"rope_parameters", kAbsent}}, "rope_theta = 0.5"},
      {{{"tie_word_embeddings", 1}}, "tie_word_embeddings = 1"},
      {{{"pad_token_id", 331}}, "pad_token_id = 331"},
      {{{"pad_token_id", -1}}, "pad_token_id = -1"},
      {{{"eos_token_id", {2, 331}}}, "eos_token_id = [2,331]"},
  };
  for (const auto& [change, says] : cases) {
    EXPECT_THAT(Refusal(With(change)), HasSubstr(says)) << change;
  }
  EXPECT_THAT(Refusal(With({{"num_experts", 129}}, Block::kPostNorm, 4)),
              HasSubstr("num_experts = 129"));
  EXPECT_THAT(Refusal(With({{"num_experts", 0}}, Block::kPostNorm, 4)),
              HasSubstr("num_experts = 0"));
  EXPECT_THAT(Refusal(With({{"num_experts_per_tok", 5}}, Block::kPostNorm, 4)),
              HasSubstr("num_experts_per_tok = 5"));
}

TEST(ConfigTest, SaysAllReasonsAtOnce) {
  const std::string refusal = Refusal(With(
      {{"hidden_act", "relu"}, {"mlp_bias", true}, {"head_dim", "eight"}}));
  EXPECT_THAT(refusal, HasSubstr("hidden_act"));
  EXPECT_THAT(refusal, HasSubstr("mlp_bias"));
  EXPECT_THAT(refusal, HasSubstr("head_dim"));
}

TEST(ConfigTest, RefusesTextThatIsNoConfig) {
  EXPECT_THAT(Refusal(""), HasSubstr("not JSON"));
  EXPECT_THAT(Refusal("{\"a\": "), HasSubstr("not JSON"));
  EXPECT_THAT(Refusal("[1]"), HasSubstr("got [1]"));
  EXPECT_THAT(Refusal("{\"hidden_size\": 1e999}"), HasSubstr("not JSON"));
  EXPECT_THAT(Refusal("{\"hidden_size\": 48, \"hidden_size\": 64}"),
              HasSubstr("\"hidden_size\" twice"));
  EXPECT_THAT(Refusal("{\"rope_parameters\": {\"x\": 1, \"x\": 1}}"),
              HasSubstr("\"x\" twice"));
  EXPECT_THAT(Refusal(std::string(100000, '[') + std::string(100000, ']')),
              HasSubstr("levels"));
  EXPECT_THAT(Refusal("{\"a\":" + std::string(200000, '[') +
                      std::string(200000, ']') + "}"),
              HasSubstr("levels"));
  EXPECT_THAT(Refusal(std::string(proto::kMaxConfigBytes + 1, ' ')),
              HasSubstr("bytes"));
  // One key in two objects is no repetition.
  EXPECT_THAT(Refusal("{\"a\": {\"x\": 1}, \"b\": {\"x\": 1}}"),
              HasSubstr("architectures absent"));
}

TEST(ConfigTest, CheckConfigHoldsForConfigsFromPrograms) {
  EXPECT_TRUE(CheckConfig(Tiny(Block::kPostNorm, 0)).ok());
  EXPECT_TRUE(CheckConfig(Tiny(Block::kPreNorm, 4)).ok());
  EXPECT_FALSE(CheckConfig(ModelConfig{}).ok());
  ModelConfig config = Tiny(Block::kPostNorm, 4);
  config.eos_id = -2;
  EXPECT_THAT(std::string(CheckConfig(config).message()),
              HasSubstr("eos_token_id = -2"));
}

// A pair of missing fields once ended the program: a check of one looked at
// the other.
TEST(ConfigTest, AnyTwoFieldsMayBeMissing) {
  for (const Block block : {Block::kPreNorm, Block::kPostNorm}) {
    for (const int64_t experts : {0, 4}) {
      const nlohmann::json whole =
          nlohmann::json::parse(WriteConfig(Tiny(block, experts)));
      for (const auto& [first, unused] : whole.items()) {
        for (const auto& [second, unused2] : whole.items()) {
          nlohmann::json part = whole;
          part.erase(first);
          part.erase(second);
          const auto config = ParseConfig(part.dump());
          if (first == "hidden_size" || second == "hidden_size") {
            EXPECT_FALSE(config.ok()) << first << ", " << second;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace motet::model
