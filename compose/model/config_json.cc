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
#include "compose/math/tensor.h"
#include "compose/model/config.h"
#include "compose/model/config_family.h"
#include "compose/model/config_fields.h"
#include "compose/model/config_rope.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using Json = ConfigJson;
using Fields = ConfigFields;

// Fields with one value that we run. Read: absent or this. Written: for the
// families in the mask.
struct Fixed {
  const char* key;
  const char* value;  // JSON
  unsigned written;
};
constexpr unsigned Bit(Family family) {
  return 1u << static_cast<unsigned>(family);
}
constexpr unsigned kEvery = ~0u;
constexpr unsigned kBiasFree = Bit(Family::kLlama) | Bit(Family::kQwen3) |
                               Bit(Family::kOlmo2) | Bit(Family::kOlmoe) |
                               Bit(Family::kQwen3Moe) | Bit(Family::kFlexOlmo);
constexpr Fixed kFixed[] = {
    {"hidden_act", "\"silu\"", kEvery},
    {"attention_bias", "false", kBiasFree},
    {"attention_dropout", "0.0", kEvery},
    {"mlp_bias", "false", Bit(Family::kLlama)},
    {"pretraining_tp", "1", Bit(Family::kLlama)},
    {"router_jitter_noise", "0.0", Bit(Family::kMixtral)},
    {"decoder_sparse_step", "1", Bit(Family::kQwen3Moe)},
    {"mlp_only_layers", "[]", Bit(Family::kQwen3Moe)},
    {"clip_qkv", "null", Bit(Family::kOlmoe)},
    {"partial_rotary_factor", "1.0", 0},
    {"rope_interleaved", "false", 0},
};

constexpr const char* kHarmless[] = {
    "_attn_implementation_autoset",
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "dtype",
    "initializer_range",
    "is_llama_config",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
    "router_aux_loss_coef",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
};

absl::Status Refusal(const std::string& got) {
  return proto::Invalid("config.json", got,
                        "a config of a model that this build runs as it is",
                        "convert the model or choose another");
}

absl::StatusOr<const FamilyInfo*> FindFamily(const Json& object) {
  const auto names = object.find("architectures");
  const auto type = object.find("model_type");
  std::vector<std::string> known;
  for (const FamilyInfo& family : Families()) {
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

using Window = FamilyInfo::Window;

// null: none.
int64_t ReadWindow(Fields& fields) {
  const Json* value = fields.Take("sliding_window");
  if (value != nullptr && value->is_null()) return 0;
  const int64_t window = fields.Size("sliding_window");
  if (window == 0) {
    fields.Refuse("sliding_window", value, "null or a positive whole number");
  }
  return window;
}

void ReadWindows(const FamilyInfo& family, Fields& fields,
                 ModelConfig& config) {
  const bool switched =
      family.window == Window::kLayers || family.window == Window::kSwitch;
  if (!switched) fields.Only("use_sliding_window", "false");
  if (family.window == Window::kNone) fields.Only("sliding_window", "null");
  if (family.window == Window::kPlain) {
    // Absent, a Mixtral has none; a Mistral has what its release had.
    if (fields.Take("sliding_window") != nullptr ||
        family.family == Family::kMistral) {
      config.window = ReadWindow(fields);
    }
  }
  if (switched) {
    const bool used = fields.Flag("use_sliding_window");
    fields.Take("sliding_window");
    if (used) config.window = ReadWindow(fields);
    if (config.window > 0 && family.window == Window::kLayers) {
      config.window_from = fields.Size("max_window_layers");
    }
  }
  fields.Take("max_window_layers");
  // What the fields above already say.
  const Json* types = fields.Take("layer_types");
  if (types == nullptr || types->is_null()) return;
  std::vector<std::string> want;
  for (int64_t l = 0; l < std::min<int64_t>(config.layers, 1024); ++l) {
    const bool slides = config.window > 0 && l >= config.window_from;
    want.push_back(slides ? "sliding_attention" : "full_attention");
  }
  if (*types != Json(want)) {
    fields.Refuse("layer_types", types,
                  config.window == 0
                      ? "full_attention in every layer"
                      : absl::StrCat("sliding_attention from layer ",
                                     config.window_from, " on"));
  }
}

// transformers 5 calls the number of experts num_local_experts in some
// families, transformers 4 num_experts, and both read both.
void ReadExperts(const FamilyInfo& family, Fields& fields,
                 ModelConfig& config) {
  const Json* local = fields.Take("num_local_experts");
  const Json* plain = fields.Take("num_experts");
  const std::string key = local != nullptr && plain == nullptr
                              ? "num_local_experts"
                          : plain != nullptr && local == nullptr
                              ? "num_experts"
                              : family.experts_key;
  config.experts = fields.Size(key);
  if (local != nullptr && plain != nullptr && *local != *plain) {
    fields.Refuse("num_local_experts", local, "the same as num_experts");
  }
  const Json* value = fields.Take(key);
  if (config.experts == 0 && value != nullptr) {
    fields.Refuse(key, value, "at least 1");
  }
  config.experts_per_token = fields.Size("num_experts_per_tok");
  config.renormalise =
      family.renormalise == FamilyInfo::Renormalise::kAlways ||
      fields.Flag("norm_topk_prob");
}

// The first is what generation stops at; the others stop it too.
void ReadEnds(Fields& fields, ModelConfig& config) {
  const Json* value = fields.Take("eos_token_id");
  if (value == nullptr || !value->is_array() || value->size() < 2 ||
      value->size() > 64) {
    config.eos_id = fields.Id("eos_token_id", config.vocabulary);
    return;
  }
  for (const Json& id : *value) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() >= static_cast<uint64_t>(config.vocabulary)) {
      fields.Refuse("eos_token_id", value,
                    absl::StrCat("ids below vocab_size = ",
                                 config.vocabulary));
      return;
    }
    if (config.eos_id < 0) {
      config.eos_id = id.get<int32_t>();
    } else {
      config.more_eos_ids.push_back(id.get<int32_t>());
    }
  }
}

void CheckFixed(Fields& fields) {
  for (const Fixed& fixed : kFixed) fields.Only(fixed.key, fixed.value);
  for (const char* key : kHarmless) fields.Take(key);
}

// Where transformers has a constant of its own for an absent field, the file
// must say it.
void ReadHeads(const FamilyInfo& family, Fields& fields, ModelConfig& config) {
  config.heads = fields.Size("num_attention_heads");
  const Json* kv_heads = fields.Take("num_key_value_heads");
  config.kv_heads =
      fields.Size("num_key_value_heads",
                  kv_heads != nullptr || family.kv_heads_follow ? &config.heads
                                                                : nullptr);
  const int64_t split = config.heads == 0 ? 0 : config.width / config.heads;
  const Json* head_dim = fields.Take("head_dim");
  const bool follows = head_dim == nullptr || head_dim->is_null();
  config.head_dim = fields.Size(
      "head_dim", family.head_dim_follows ? &split : nullptr);
  if (follows && family.head_dim_follows &&
      fields.Take("hidden_size") != nullptr &&
      split * config.heads != config.width) {
    const Json width = config.width;
    fields.Refuse("hidden_size", &width,
                  "a multiple of num_attention_heads, or head_dim given");
  }
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
  MOTET_ASSIGN_OR_RETURN(const FamilyInfo* family, FindFamily(object));
  Fields fields(object);
  ModelConfig config;
  config.block = family->block;
  config.qk_norm = family->qk_norm;
  config.qkv_bias = family->qkv_bias;
  config.vocabulary = fields.Size("vocab_size");
  config.width = fields.Size("hidden_size");
  config.layers = fields.Size("num_hidden_layers");
  config.ffn_width = fields.Size(family->width_key);
  // The width of dense layers, which a mixture of ours does not have.
  if (family->experts_key != nullptr) fields.Take("intermediate_size");
  config.max_positions = fields.Size("max_position_embeddings");
  ReadHeads(*family, fields, config);
  config.norm_eps = static_cast<float>(fields.Real("rms_norm_eps"));
  ReadRope(fields, config);
  config.tied_head = fields.Flag("tie_word_embeddings");
  if (family->experts_key != nullptr) ReadExperts(*family, fields, config);
  ReadWindows(*family, fields, config);
  config.bos_id = fields.Id("bos_token_id", config.vocabulary);
  ReadEnds(fields, config);
  config.pad_id = fields.Id("pad_token_id", config.vocabulary);
  CheckFixed(fields);
  fields.RefuseRest();
  if (!fields.reasons().empty()) {
    return Refusal(absl::StrJoin(fields.reasons(), ", "));
  }
  MOTET_RETURN_IF_ERROR(CheckConfig(config));
  if (FamilyOf(config) != family) config.family = family->family;
  return config;
}

std::string WriteConfig(const ModelConfig& config, const std::string& dtype) {
  const FamilyInfo* family = FamilyOf(config);
  MOTET_CHECK(family != nullptr);
  Json out;
  out["architectures"] = {family->architecture};
  out["model_type"] = family->model_type;
  if (!dtype.empty()) {
    out["dtype"] = dtype;
    out["torch_dtype"] = dtype;  // transformers 4
  }
  out["vocab_size"] = config.vocabulary;
  out["hidden_size"] = config.width;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.heads;
  out["num_key_value_heads"] = config.kv_heads;
  out["head_dim"] = config.head_dim;
  out["intermediate_size"] = config.ffn_width;
  out[family->width_key] = config.ffn_width;
  out["max_position_embeddings"] = config.max_positions;
  out["rms_norm_eps"] = Shortest(config.norm_eps);
  WriteRope(config, out);
  out["tie_word_embeddings"] = config.tied_head;
  if (family->experts_key != nullptr) {
    out[family->experts_key] = config.experts;
    out["num_experts_per_tok"] = config.experts_per_token;
    out["output_router_logits"] = false;
    out["router_aux_loss_coef"] = 0.0;
    if (family->renormalise == FamilyInfo::Renormalise::kSays) {
      out["norm_topk_prob"] = config.renormalise;
    }
  }
  if (family->window != Window::kNone) {
    out["sliding_window"] =
        config.window == 0 ? Json(nullptr) : Json(config.window);
    if (family->window != Window::kPlain) {
      out["use_sliding_window"] = config.window > 0;
    }
    if (family->window == Window::kLayers) {
      out["max_window_layers"] =
          config.window == 0 ? config.layers : config.window_from;
    }
  }
  for (const Fixed& fixed : kFixed) {
    if ((fixed.written & family->bit()) != 0) {
      out[fixed.key] = Json::parse(fixed.value);
    }
  }
  out["bos_token_id"] = IdOrNull(config.bos_id);
  out["eos_token_id"] = IdOrNull(config.eos_id);
  if (!config.more_eos_ids.empty()) {
    Json ids = {config.eos_id};
    for (const int32_t id : config.more_eos_ids) ids.push_back(id);
    out["eos_token_id"] = ids;
  }
  out["pad_token_id"] = IdOrNull(config.pad_id);
  out["initializer_range"] = 0.02;
  out["use_cache"] = true;
  return out.dump(1) + "\n";
}

}  // namespace motet::model
