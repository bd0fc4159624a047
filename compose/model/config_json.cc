// SPDX-License-Identifier: Apache-2.0
// A decoder's config.json in and out. Every key must be one that we use, one
// that may only have the value under which our mathematics is the model's
// (kFixed), or one that cannot change the mathematics (kHarmless).
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/model/config.h"
#include "compose/model/config_fields.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using Json = ConfigJson;
using Fields = ConfigFields;

struct Family {
  const char* architecture;
  const char* model_type;
  Block block;
  const char* experts_key;  // null when dense
};
enum FamilyBit : unsigned {
  kLlama = 1,
  kMixtral = 2,
  kOlmo2 = 4,
  kFlexOlmo = 8,
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", Block::kPreNorm, nullptr},
    {"MixtralForCausalLM", "mixtral", Block::kPreNorm, "num_local_experts"},
    {"Olmo2ForCausalLM", "olmo2", Block::kPostNorm, nullptr},
    {"FlexOlmoForCausalLM", "flex_olmo", Block::kPostNorm, "num_experts"},
};

// Fields with one value that we run. Read: absent or this. Written: for the
// families in the mask.
struct Fixed {
  const char* key;
  const char* value;  // JSON
  unsigned written;
};
constexpr Fixed kFixed[] = {
    {"hidden_act", "\"silu\"", kLlama | kMixtral | kOlmo2 | kFlexOlmo},
    {"attention_bias", "false", kLlama | kOlmo2 | kFlexOlmo},
    {"attention_dropout", "0.0", kLlama | kMixtral | kOlmo2 | kFlexOlmo},
    {"mlp_bias", "false", kLlama},
    {"pretraining_tp", "1", kLlama},
    {"sliding_window", "null", kMixtral},
    {"router_jitter_noise", "0.0", kMixtral},
    {"use_sliding_window", "false", 0},
    {"partial_rotary_factor", "1.0", 0},
    {"rope_interleaved", "false", 0},
    {"clip_qkv", "null", 0},
};

constexpr const char* kHarmless[] = {
    "_name_or_path",     "architectures",          "dtype",
    "initializer_range", "is_llama_config",        "max_window_layers",
    "model_type",        "output_router_logits",   "router_aux_loss_coef",
    "torch_dtype",       "transformers.js_config", "transformers_version",
    "use_cache",
};

absl::Status Refusal(const std::string& got) {
  return proto::Invalid("config.json", got,
                        "a config of a model that this build runs as it is",
                        "convert the model or choose another");
}

absl::StatusOr<const Family*> FindFamily(const Json& object) {
  const auto names = object.find("architectures");
  const auto type = object.find("model_type");
  std::vector<std::string> known;
  for (const Family& family : kFamilies) {
    known.push_back(family.architecture);
    if (names == object.end() || *names != Json{family.architecture}) continue;
    if (type != object.end() && *type != family.model_type) {
      return Refusal(absl::StrCat("model_type = ", ShowConfigValue(*type),
                                  " (want \"", family.model_type,
                                  "\" beside ", family.architecture, ")"));
    }
    return &family;
  }
  return Refusal(
      absl::StrCat("architectures ",
                   names == object.end()
                       ? std::string("absent")
                       : absl::StrCat("= ", ShowConfigValue(*names)),
                   " (want one of ", absl::StrJoin(known, ", "), ")"));
}

bool IsDefaultRope(const Json& value) {
  for (const char* key : {"rope_type", "type"}) {
    const auto it = value.find(key);
    if (it != value.end() && *it != "default") return false;
  }
  return true;
}

// theta lies at the top (transformers 4), in rope_parameters (5), or in both.
double RopeTheta(Fields& fields) {
  const Json* scaling = fields.Take("rope_scaling");
  if (scaling != nullptr && !scaling->is_null() &&
      !(scaling->is_object() && IsDefaultRope(*scaling) &&
        !scaling->contains("factor"))) {
    fields.Refuse("rope_scaling", scaling, "null: scaled RoPE is not run");
  }
  const Json* parameters = fields.Take("rope_parameters");
  if (parameters == nullptr || parameters->is_null()) {
    return fields.Real("rope_theta");
  }
  if (!parameters->is_object() || !IsDefaultRope(*parameters)) {
    fields.Refuse("rope_parameters", parameters,
                  "rope_type \"default\": scaled RoPE is not run");
    return 1;
  }
  Fields inside(*parameters);
  inside.Take("rope_type");
  inside.Take("type");
  const double theta = inside.Real("rope_theta");
  const Json* partial = inside.Take("partial_rotary_factor");
  if (partial != nullptr && !partial->is_null() && *partial != 1.0) {
    inside.Refuse("rope_parameters.partial_rotary_factor", partial, "1.0");
  }
  inside.RefuseRest();
  fields.Append(inside.reasons());
  const Json* top = fields.Take("rope_theta");
  if (top != nullptr && !top->is_null() && *top != theta) {
    fields.Refuse("rope_theta", top,
                  absl::StrCat(theta, " as in rope_parameters"));
  }
  return theta;
}

void CheckFixed(Fields& fields, int64_t layers) {
  for (const Fixed& fixed : kFixed) {
    fields.Only(fixed.key, fixed.value);
  }
  const Json* types = fields.Take("layer_types");
  if (types != nullptr && !types->is_null() &&
      *types != Json(std::vector<std::string>(std::min<int64_t>(layers, 1024),
                                              "full_attention"))) {
    fields.Refuse("layer_types", types, "full_attention in every layer");
  }
  for (const char* key : kHarmless) fields.Take(key);
}

// The double with the fewest digits that is this float: 1e-06, not
// 9.999999974752427e-07.
double Shortest(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text - 1, value);
  *end.ptr = '\0';
  return std::strtod(text, nullptr);
}

Json IdOrNull(int32_t id) { return id < 0 ? Json(nullptr) : Json(id); }

}  // namespace

absl::StatusOr<ModelConfig> ParseConfig(const std::string& json) {
  MOTET_ASSIGN_OR_RETURN(const Json object, ParseConfigObject(json, Refusal));
  MOTET_ASSIGN_OR_RETURN(const Family* family, FindFamily(object));
  Fields fields(object);
  ModelConfig config;
  config.block = family->block;
  config.vocabulary = fields.Size("vocab_size");
  config.width = fields.Size("hidden_size");
  config.layers = fields.Size("num_hidden_layers");
  config.heads = fields.Size("num_attention_heads");
  config.kv_heads = fields.Size("num_key_value_heads", &config.heads);
  config.ffn_width = fields.Size("intermediate_size");
  config.max_positions = fields.Size("max_position_embeddings");
  const int64_t split = config.heads == 0 ? 0 : config.width / config.heads;
  config.head_dim = fields.Size("head_dim", &split);
  if (!object.contains("head_dim") && object.contains("hidden_size") &&
      split * config.heads != config.width) {
    fields.Refuse("hidden_size", &object["hidden_size"],
                  "a multiple of num_attention_heads, or head_dim given");
  }
  config.norm_eps = static_cast<float>(fields.Real("rms_norm_eps"));
  config.rope_theta = RopeTheta(fields);
  config.tied_head = fields.Flag("tie_word_embeddings");
  if (family->experts_key != nullptr) {
    config.experts = fields.Size(family->experts_key);
    config.experts_per_token = fields.Size("num_experts_per_tok");
    if (config.experts == 0 && object.contains(family->experts_key)) {
      fields.Refuse(family->experts_key, &object[family->experts_key],
                    "at least 1");
    }
    // Mixtral always divides by the sum; FlexOlmo says.
    config.renormalise =
        family->block == Block::kPreNorm || fields.Flag("norm_topk_prob");
  }
  config.bos_id = fields.Id("bos_token_id", config.vocabulary);
  config.eos_id = fields.Id("eos_token_id", config.vocabulary);
  config.pad_id = fields.Id("pad_token_id", config.vocabulary);
  CheckFixed(fields, config.layers);
  fields.RefuseRest();
  if (!fields.reasons().empty()) {
    return Refusal(absl::StrJoin(fields.reasons(), ", "));
  }
  MOTET_RETURN_IF_ERROR(CheckConfig(config));
  return config;
}

std::string WriteConfig(const ModelConfig& config) {
  const Family* family = nullptr;
  unsigned bit = 0;
  for (size_t i = 0; i < std::size(kFamilies); ++i) {
    if (std::string(Architecture(config)) == kFamilies[i].architecture) {
      family = &kFamilies[i];
      bit = 1u << i;
    }
  }
  Json out;
  out["architectures"] = {family->architecture};
  out["model_type"] = family->model_type;
  out["vocab_size"] = config.vocabulary;
  out["hidden_size"] = config.width;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.heads;
  out["num_key_value_heads"] = config.kv_heads;
  out["head_dim"] = config.head_dim;
  out["intermediate_size"] = config.ffn_width;
  out["max_position_embeddings"] = config.max_positions;
  out["rms_norm_eps"] = Shortest(config.norm_eps);
  // Both spellings: transformers 4 reads the first, 5 the second.
  out["rope_theta"] = config.rope_theta;
  out["rope_parameters"] = {{"rope_theta", config.rope_theta},
                            {"rope_type", "default"}};
  out["tie_word_embeddings"] = config.tied_head;
  if (family->experts_key != nullptr) {
    out[family->experts_key] = config.experts;
    out["num_experts_per_tok"] = config.experts_per_token;
    out["output_router_logits"] = false;
    out["router_aux_loss_coef"] = 0.0;
    if (bit == kFlexOlmo) out["norm_topk_prob"] = config.renormalise;
  }
  for (const Fixed& fixed : kFixed) {
    if ((fixed.written & bit) != 0) {
      out[fixed.key] = Json::parse(fixed.value);
    }
  }
  out["bos_token_id"] = IdOrNull(config.bos_id);
  out["eos_token_id"] = IdOrNull(config.eos_id);
  out["pad_token_id"] = IdOrNull(config.pad_id);
  out["initializer_range"] = 0.02;
  out["use_cache"] = true;
  return out.dump(1) + "\n";
}

}  // namespace motet::model
