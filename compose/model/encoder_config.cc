// SPDX-License-Identifier: Apache-2.0
// An encoder's config.json in and out. As for decoders (config_json.cc),
// every key is one that we use, one that may only have the value that we run,
// or one that cannot change the mathematics.
#include "compose/model/encoder_config.h"

#include <charconv>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/model/config_fields.h"
#include "proto/error.h"

namespace motet::model {
namespace {

constexpr const char* kArchitectures[] = {"BertModel", "BertForMaskedLM"};

// Fields with one value that we run; absent is this value in transformers.
constexpr struct {
  const char* key;
  const char* value;  // JSON
} kFixed[] = {
    {"model_type", "\"bert\""},
    {"hidden_act", "\"gelu\""},
    {"position_embedding_type", "\"absolute\""},
    {"is_decoder", "false"},
    {"is_encoder_decoder", "false"},
    {"add_cross_attention", "false"},
    {"pruned_heads", "{}"},
    {"chunk_size_feed_forward", "0"},
    {"embedding_size", "null"},
    {"quantization_config", "null"},
};

// Dropout is not applied to a frozen base; heads and poolers are not run.
constexpr const char* kHarmless[] = {
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "directionality",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "label2id",
    "language",
    "name",
    "num_labels",
    "output_past",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
};

struct Bound {
  const char* name;
  int64_t EncoderConfig::*field;
  int64_t most;
};
constexpr Bound kBounds[] = {
    {"vocab_size", &EncoderConfig::vocabulary, int64_t{1} << 22},
    {"hidden_size", &EncoderConfig::width, int64_t{1} << 17},
    {"num_hidden_layers", &EncoderConfig::layers, 1024},
    {"num_attention_heads", &EncoderConfig::heads, 4096},
    {"intermediate_size", &EncoderConfig::ffn_width, int64_t{1} << 20},
    {"max_position_embeddings", &EncoderConfig::max_positions,
     int64_t{1} << 20},
    {"type_vocab_size", &EncoderConfig::token_types, 1024},
};

absl::Status Refusal(const std::string& got) {
  return proto::Invalid("config.json", got,
                        "a config of a BERT encoder that this build runs",
                        "convert the model or choose another");
}

double Shortest(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text - 1, value);
  *end.ptr = '\0';
  return std::strtod(text, nullptr);
}

}  // namespace

absl::Status CheckEncoderConfig(const EncoderConfig& config) {
  std::vector<std::string> reasons;
  for (const Bound& bound : kBounds) {
    const int64_t value = config.*bound.field;
    if (value < 1 || value > bound.most) {
      reasons.push_back(absl::StrCat(bound.name, " = ", value, " (want 1 to ",
                                     bound.most, ")"));
    }
  }
  if (reasons.empty() && config.width % config.heads != 0) {
    reasons.push_back(
        absl::StrCat("num_attention_heads = ", config.heads,
                     " (want a divisor of hidden_size = ", config.width, ")"));
  }
  if (!(config.norm_eps > 0 && config.norm_eps < 1)) {
    reasons.push_back(absl::StrCat("layer_norm_eps = ", config.norm_eps,
                                   " (want more than 0, less than 1)"));
  }
  if (config.pad_id < -1 || config.pad_id >= config.vocabulary) {
    reasons.push_back(absl::StrCat(
        "pad_token_id = ", config.pad_id,
        " (want none or less than vocab_size = ", config.vocabulary, ")"));
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("encoder config", absl::StrJoin(reasons, ", "),
                        "sizes of an encoder that this build runs",
                        "correct the fields named");
}

absl::StatusOr<EncoderConfig> ParseEncoderConfig(const std::string& json) {
  MOTET_ASSIGN_OR_RETURN(const ConfigJson object,
                         ParseConfigObject(json, Refusal));
  ConfigFields fields(object);
  const ConfigJson* names = fields.Take("architectures");
  bool known = false;
  for (const char* name : kArchitectures) {
    known = known || (names != nullptr && *names == ConfigJson{name});
  }
  if (!known) {
    fields.Refuse("architectures", names,
                  absl::StrCat("one of ", absl::StrJoin(kArchitectures, ", ")));
    return Refusal(fields.reasons().front());
  }
  EncoderConfig config;
  config.vocabulary = fields.Size("vocab_size");
  config.width = fields.Size("hidden_size");
  config.layers = fields.Size("num_hidden_layers");
  config.heads = fields.Size("num_attention_heads");
  config.ffn_width = fields.Size("intermediate_size");
  config.max_positions = fields.Size("max_position_embeddings");
  config.token_types = fields.Size("type_vocab_size");
  config.norm_eps = static_cast<float>(fields.Real("layer_norm_eps"));
  config.pad_id = fields.Id("pad_token_id", config.vocabulary);
  for (const auto& [key, value] : kFixed) fields.Only(key, value);
  for (const char* key : kHarmless) fields.Take(key);
  fields.RefuseRest();
  if (!fields.reasons().empty()) {
    return Refusal(absl::StrJoin(fields.reasons(), ", "));
  }
  MOTET_RETURN_IF_ERROR(CheckEncoderConfig(config));
  return config;
}

std::string WriteEncoderConfig(const EncoderConfig& config) {
  ConfigJson out;
  out["architectures"] = {kArchitectures[0]};
  out["model_type"] = "bert";
  out["vocab_size"] = config.vocabulary;
  out["hidden_size"] = config.width;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.heads;
  out["intermediate_size"] = config.ffn_width;
  out["max_position_embeddings"] = config.max_positions;
  out["type_vocab_size"] = config.token_types;
  out["layer_norm_eps"] = Shortest(config.norm_eps);
  out["hidden_act"] = "gelu";
  out["position_embedding_type"] = "absolute";
  out["is_decoder"] = false;
  out["pad_token_id"] =
      config.pad_id < 0 ? ConfigJson(nullptr) : ConfigJson(config.pad_id);
  out["initializer_range"] = 0.02;
  return out.dump(1) + "\n";
}

}  // namespace motet::model
