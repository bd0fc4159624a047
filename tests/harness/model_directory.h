// SPDX-License-Identifier: Apache-2.0
// A tiny random Hugging Face model directory, written without the engine's
// own writers: config.json, model.safetensors, and a tokenizer.json whose
// tokens are the 256 bytes. Header-only, so that tests of every box can
// include it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/harness/model_files.h"

namespace motet::testing {

struct DirectoryOptions {
  std::string family = "llama";  // or "mixtral", "flex_olmo"
  int experts = 4;               // of a mixture, two a token
  int width = 32, ffn_width = 48, layers = 2, heads = 4, kv_heads = 2;
  int positions = 256;
  int vocabulary = 258;  // the bytes, <|endoftext|>, <|padding|>, unused
  uint64_t seed = 1;
};

// As GPT-2 writes a byte: printable ones as they are, others from U+0100 on.
inline std::string ByteToken(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += !printable(b);
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6),
          static_cast<char>(0x80 | (code & 63))};
}

// Every byte is the token of its own number.
inline std::string ByteTokenizerJson() {
  using nlohmann::json;
  json vocab = json::object(), added = json::array();
  for (int b = 0; b < 256; ++b) vocab[ByteToken(b)] = b;
  const char* const specials[] = {"<|endoftext|>", "<|padding|>"};
  for (int i = 0; i < 2; ++i) {
    vocab[specials[i]] = 256 + i;
    added.push_back(SpecialToken(specials[i], 256 + i));
  }
  const json level = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", true}};
  const json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", false},
                      {"vocab", vocab},
                      {"merges", json::array()}};
  return json{{"version", "1.0"},      {"truncation", nullptr},
              {"padding", nullptr},    {"added_tokens", added},
              {"normalizer", nullptr}, {"pre_tokenizer", level},
              {"post_processor", nullptr},
              {"decoder", level},      {"model", model}}
      .dump();
}

inline void WriteModelDirectory(const std::string& folder,
                                const DirectoryOptions& options = {}) {
  using nlohmann::json;
  const DirectoryOptions& o = options;
  const bool flex = o.family == "flex_olmo", mixtral = o.family == "mixtral";
  json config = {{"architectures",
                  {flex      ? "FlexOlmoForCausalLM"
                   : mixtral ? "MixtralForCausalLM"
                             : "LlamaForCausalLM"}},
                 {"model_type", o.family},
                 {"bos_token_id", nullptr},
                 {"eos_token_id", 256},
                 {"pad_token_id", 257},
                 {"hidden_act", "silu"},
                 {"hidden_size", o.width},
                 {"intermediate_size", o.ffn_width},
                 {"max_position_embeddings", o.positions},
                 {"num_attention_heads", o.heads},
                 {"num_hidden_layers", o.layers},
                 {"num_key_value_heads", o.kv_heads},
                 {"rms_norm_eps", 1e-6},
                 {"rope_theta", 10000.0},
                 {"tie_word_embeddings", false},
                 {"vocab_size", o.vocabulary}};
  if (flex || mixtral) {
    config["num_experts_per_tok"] = 2;
    config[flex ? "num_experts" : "num_local_experts"] = o.experts;
  }

  std::map<std::string, std::vector<int64_t>> tensors;
  const int64_t width = o.width, ffn = o.ffn_width;
  const int64_t kv = width / o.heads * o.kv_heads;
  const auto weight = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors[name + ".weight"] = std::move(shape);
  };
  weight("model.embed_tokens", {o.vocabulary, width});
  weight("model.norm", {width});
  weight("lm_head", {o.vocabulary, width});
  for (int l = 0; l < o.layers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    weight(layer + "self_attn.q_proj", {width, width});
    weight(layer + "self_attn.k_proj", {kv, width});
    weight(layer + "self_attn.v_proj", {kv, width});
    weight(layer + "self_attn.o_proj", {width, width});
    weight(layer + "post_attention_layernorm", {width});
    if (flex) {
      weight(layer + "post_feedforward_layernorm", {width});
      weight(layer + "self_attn.q_norm", {width});
      weight(layer + "self_attn.k_norm", {kv});
    } else {
      weight(layer + "input_layernorm", {width});
    }
    const std::string moe = layer + (mixtral ? "block_sparse_moe." : "mlp.");
    if (flex || mixtral) weight(moe + "gate", {o.experts, width});
    for (int e = 0; e < (flex || mixtral ? o.experts : 1); ++e) {
      const std::string expert =
          flex || mixtral ? moe + "experts." + std::to_string(e) + "." : moe;
      weight(expert + (mixtral ? "w1" : "gate_proj"), {ffn, width});
      weight(expert + (mixtral ? "w3" : "up_proj"), {ffn, width});
      weight(expert + (mixtral ? "w2" : "down_proj"), {width, ffn});
    }
  }

  std::filesystem::create_directories(folder);
  WriteText(folder + "/config.json", config.dump());
  WriteText(folder + "/tokenizer.json", ByteTokenizerJson());
  WriteRandomTensors(
      folder + "/model.safetensors", tensors, o.seed,
      [&](const std::string& name) { return tensors.at(name).size() == 1; });
}

}  // namespace motet::testing
