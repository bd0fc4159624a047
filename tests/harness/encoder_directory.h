// SPDX-License-Identifier: Apache-2.0
// A tiny random BERT encoder as a sentence-transformers folder, written
// without the engine's own writers; its WordPiece vocabulary is the letters
// and digits, alone and continued. Header-only, as model_directory.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/harness/model_files.h"

namespace motet::testing {

struct EncoderOptions {
  int width = 32, ffn_width = 48, layers = 2, heads = 4;
  int positions = 64, max_tokens = 48;
  bool normalise = true;
  uint64_t seed = 1;
};

inline nlohmann::json LetterTokenizer() {
  using nlohmann::json;
  const char* const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  json vocab = json::object(), added = json::array();
  for (const char* special : specials) {
    const size_t id = vocab.size();
    vocab[special] = id;
    added.push_back(SpecialToken(special, id));
  }
  for (char c : std::string("abcdefghijklmnopqrstuvwxyz0123456789.,?")) {
    for (const char* prefix : {"", "##"}) {
      const size_t id = vocab.size();
      vocab[prefix + std::string(1, c)] = id;
    }
  }
  const auto special = [](const char* name) {
    return json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  const auto entry = [](const char* name, int id) {
    return json{{"id", name}, {"ids", {id}}, {"tokens", {name}}};
  };
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer",
       {{"type", "BertNormalizer"},
        {"clean_text", true},
        {"handle_chinese_chars", true},
        {"strip_accents", nullptr},
        {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {special("[CLS]"),
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
          special("[SEP]")}},
        {"pair", json::array()},
        {"special_tokens",
         {{"[CLS]", entry("[CLS]", 2)}, {"[SEP]", entry("[SEP]", 3)}}}}},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 100},
        {"vocab", vocab}}}};
}

inline void WriteEncoderDirectory(const std::string& folder,
                                  const EncoderOptions& o = {}) {
  using nlohmann::json;
  const json tokenizer = LetterTokenizer();
  const auto vocabulary =
      static_cast<int64_t>(tokenizer["model"]["vocab"].size());
  const json config = {{"architectures", {"BertModel"}},
                       {"model_type", "bert"},
                       {"hidden_act", "gelu"},
                       {"hidden_size", o.width},
                       {"intermediate_size", o.ffn_width},
                       {"layer_norm_eps", 1e-12},
                       {"max_position_embeddings", o.positions},
                       {"num_attention_heads", o.heads},
                       {"num_hidden_layers", o.layers},
                       {"pad_token_id", 0},
                       {"position_embedding_type", "absolute"},
                       {"type_vocab_size", 2},
                       {"vocab_size", vocabulary}};
  std::map<std::string, std::vector<int64_t>> tensors;
  const int64_t width = o.width, ffn = o.ffn_width;
  const auto affine = [&](const std::string& name, int64_t to, int64_t from) {
    tensors[name + ".weight"] = {to, from};
    tensors[name + ".bias"] = {to};
  };
  const auto norm = [&](const std::string& name) {
    tensors[name + ".weight"] = {width};
    tensors[name + ".bias"] = {width};
  };
  tensors["embeddings.word_embeddings.weight"] = {vocabulary, width};
  tensors["embeddings.position_embeddings.weight"] = {o.positions, width};
  tensors["embeddings.token_type_embeddings.weight"] = {2, width};
  norm("embeddings.LayerNorm");
  for (int l = 0; l < o.layers; ++l) {
    const std::string layer = "encoder.layer." + std::to_string(l) + ".";
    for (const char* map : {"query", "key", "value"}) {
      affine(layer + "attention.self." + map, width, width);
    }
    affine(layer + "attention.output.dense", width, width);
    norm(layer + "attention.output.LayerNorm");
    affine(layer + "intermediate.dense", ffn, width);
    affine(layer + "output.dense", width, ffn);
    norm(layer + "output.LayerNorm");
  }
  std::filesystem::create_directories(folder + "/1_Pooling");
  const auto write = [&](const char* name, const json& value) {
    WriteText(folder + "/" + name, value.dump());
  };
  json modules = {{{"idx", 0},
                   {"name", "0"},
                   {"path", ""},
                   {"type", "sentence_transformers.models.Transformer"}},
                  {{"idx", 1},
                   {"name", "1"},
                   {"path", "1_Pooling"},
                   {"type", "sentence_transformers.models.Pooling"}}};
  if (o.normalise) {
    modules.push_back({{"idx", 2},
                       {"name", "2"},
                       {"path", "2_Normalize"},
                       {"type", "sentence_transformers.models.Normalize"}});
  }
  write("config.json", config);
  write("modules.json", modules);
  write("sentence_bert_config.json",
        {{"max_seq_length", o.max_tokens}, {"do_lower_case", false}});
  write("1_Pooling/config.json",
        {{"word_embedding_dimension", o.width},
         {"pooling_mode_cls_token", false},
         {"pooling_mode_mean_tokens", true},
         {"pooling_mode_max_tokens", false},
         {"pooling_mode_mean_sqrt_len_tokens", false}});
  write("tokenizer.json", tokenizer);
  WriteRandomTensors(folder + "/model.safetensors", tensors, o.seed,
                     [](const std::string& name) {
                       return name.find("LayerNorm.weight") !=
                              std::string::npos;
                     });
}

}  // namespace motet::testing
