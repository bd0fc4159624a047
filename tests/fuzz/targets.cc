// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/targets.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "compose/math/tensor.h"
#include "compose/model/config.h"
#include "compose/model/strict_json.h"
#include "compose/model/tokenizer.h"
#include "compose/model/tokenizer_tables.h"
#include "compose/model/unicode.h"
#include "compose/model/weights.h"
#include "compose/package/safetensors.h"
#include "nlohmann/json.hpp"

namespace motet::fuzz {
namespace {

std::string WithLength(std::string header, const std::string& data) {
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string bytes(8, '\0');
  const uint64_t n = header.size();
  memcpy(bytes.data(), &n, 8);
  return bytes + header + data;
}

// Makes the header end, padded, at its last brace.
void RepairLength(std::string& bytes) {
  const size_t brace = bytes.rfind('}');
  if (bytes.size() < 8 || brace == std::string::npos || brace < 8) return;
  const size_t data = std::min(bytes.find_first_not_of(' ', brace + 1),
                               bytes.size());
  bytes = WithLength(bytes.substr(8, brace + 1 - 8), bytes.substr(data));
}

}  // namespace

bool Safetensors(const std::string& bytes) {
  const auto parsed = package::ParseSafetensors(bytes, "fuzz");
  if (!parsed.ok()) return false;
  uint64_t sum = 0, tensors = 0;
  for (const auto& entry : *parsed) {
    MOTET_CHECK(entry.tensor.bytes() >= 0);
    MOTET_CHECK(entry.file_offset + entry.tensor.bytes() <= bytes.size());
    const auto* data = static_cast<const unsigned char*>(entry.tensor.data);
    for (int64_t i = 0; i < entry.tensor.bytes(); ++i) sum += data[i];
    tensors += entry.tensor.bytes();
  }
  MOTET_CHECK(tensors <= bytes.size());
  MOTET_CHECK(sum <= 255 * bytes.size());
  return true;
}

Corpus SafetensorsCorpus() {
  Corpus corpus;
  corpus.seeds = {
      WithLength("{}", ""),
      WithLength(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32",)"
                 R"("shape":[2,2],"data_offsets":[0,16]}}   )",
                 std::string(16, '\1')),
      WithLength(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                 R"("b":{"dtype":"U8","shape":[2,2],"data_offsets":[4,8]},)"
                 R"("c":{"dtype":"U8","shape":[0],"data_offsets":[8,8]},)"
                 R"("d":{"dtype":"U8","shape":[],"data_offsets":[8,9]}})",
                 std::string(9, '\2')),
      WithLength(R"({"x":{"dtype":"BF16","shape":[1,3],)"
                 R"("data_offsets":[8,14]},"y":{"dtype":"I64","shape":[1],)"
                 R"("data_offsets":[0,8]}})",
                 std::string(14, '\3'))};
  corpus.words = {"\"dtype\":",  "\"shape\":",    "\"data_offsets\":",
                  "[0,0]",       "\"F32\"",       "\"F64\"",
                  "\"U8\"",      "__metadata__",  "\"z\":{",
                  "},",          "[18446744073709551615]",
                  "[4611686018427387904,4]",      "\\u0000",
                  "\"a\":",      "[[",            "{\"dtype\":\"U8\"}"};
  corpus.repair = RepairLength;
  return corpus;
}

bool Config(const std::string& json) {
  const auto config = model::ParseConfig(json);
  if (!config.ok()) return false;
  const std::string written = model::WriteConfig(*config);
  const auto again = model::ParseConfig(written);
  MOTET_CHECK(again.ok());
  MOTET_CHECK(model::WriteConfig(*again) == written);
  MOTET_CHECK(model::CheckConfig(*config).ok());
  const int64_t experts = std::max<int64_t>(config->experts, 1);
  if (config->layers * experts > 1000) return true;
  model::ModelWeights weights;
  int64_t tensors = 0;
  model::VisitWeights(*config, weights,
                      [&](const std::string&, const math::Shape& shape,
                          math::Tensor&) {
                        MOTET_CHECK(shape.size() > 0);
                        ++tensors;
                      });
  MOTET_CHECK(tensors >= 3);
  return true;
}

Corpus ConfigCorpus() {
  Corpus corpus;
  model::ModelConfig c;
  c.vocabulary = 64;
  c.width = 16;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.ffn_width = 32;
  c.max_positions = 128;
  c.eos_id = 0;
  corpus.seeds.push_back(model::WriteConfig(c));
  c.experts = 4;
  c.experts_per_token = 2;
  corpus.seeds.push_back(model::WriteConfig(c));
  c.block = model::Block::kPreNorm;
  c.qk_norm = model::QkNorm::kNone;
  c.experts = c.experts_per_token = 0;
  c.tied_head = true;
  corpus.seeds.push_back(model::WriteConfig(c));
  c.rope_scaling = {8, 1, 4, 64};
  c.qkv_bias = true;
  c.window = 16;
  c.window_from = 1;
  corpus.seeds.push_back(model::WriteConfig(c));
  c.qkv_bias = false;
  c.window_from = 0;
  c.qk_norm = model::QkNorm::kPerHead;
  c.experts = 5;
  c.experts_per_token = 2;
  corpus.seeds.push_back(model::WriteConfig(c));
  c.qk_norm = model::QkNorm::kWhole;
  c.window = 0;
  corpus.seeds.push_back(model::WriteConfig(c));
  corpus.words = {"\"hidden_size\": ", "\"sliding_window\": 8,",
                  "\"use_sliding_window\": true,", "\"llama3\"",
                  "\"MistralForCausalLM\"", "\"mistral\"",
                  "\"layer_types\": [", "\"sliding_attention\",",
 "\"rope_parameters\": {",
                  "\"rope_type\": \"default\"", "\"num_experts\": 3,",
                  "\"head_dim\": null,", "\"rope_scaling\": null,",
                  "\"model_type\": \"llama\",", "\"architectures\": [",
                  "\"Olmo2ForCausalLM\"", "\"tie_word_embeddings\": true,",
                  "NaN", "}", "{", ",", "\"eos_token_id\": [1,2],"};
  return corpus;
}

namespace {

// The tables that are read from the text are those of the tree, and exactly
// the documents that have a tree are taken; but a token given twice is there
// twice, and the tokenizer's to refuse.
void CheckTables(const std::string& text) {
  using nlohmann::json;
  const auto whole = model::ParseStrictJson(text, "tokenizer.json");
  model::TokenizerTables tables;
  const auto rest = model::TakeTokenizerTables(text, tables);
  json ids = json::object();
  for (const auto& [token, id] : tables.vocabulary) {
    ids[std::string(token)] = id;
  }
  if (rest.ok() && !whole.ok()) {
    MOTET_CHECK(ids.size() < tables.vocabulary.size());
    MOTET_CHECK(!model::Tokenizer::Parse(text).ok());
    return;
  }
  if (!whole.ok()) {
    MOTET_CHECK(rest.status() == whole.status());
    return;
  }
  MOTET_CHECK(rest.ok());
  const auto part = [&](const char* key) {
    const auto model = whole->is_object() ? whole->find("model") : whole->end();
    return whole->is_object() && model != whole->end() && model->is_object()
               ? model->value(key, json())
               : json();
  };
  const json vocabulary = part("vocab"), merges = part("merges");
  if (vocabulary.is_object() && tables.vocabulary_status.ok()) {
    MOTET_CHECK(ids == vocabulary);
  }
  if (merges.is_array() && tables.merges_status.ok()) {
    MOTET_CHECK(tables.merges.size() == merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const std::string left(tables.merges[i].first),
          right(tables.merges[i].second);
      MOTET_CHECK(merges[i] == json::array({left, right}) ||
                  merges[i] == left + " " + right);
    }
  }
}

}  // namespace

bool Tokenizer(const std::string& json) {
  CheckTables(json);
  const auto tokenizer = model::Tokenizer::Parse(json);
  if (!tokenizer.ok()) return false;
  // Contractions, digits, white space, marks, bad bytes, a byte of each kind.
  static const std::string text =
      "I'll take 12345  of\r\n\n them\xFF\xC3 \xE4\xBD\xA0\xF0\x9F\x98\x80 "
      "<|end|>aaaaaaaaabababab\t<|endoftext|> [M]  x\xC2\xA0y\x00z";
  for (const std::string& input : {text, json.substr(0, 512)}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(input);
    for (const int32_t id : ids) {
      MOTET_CHECK(id >= 0 && id < (*tokenizer)->vocabulary());
    }
    (void)(*tokenizer)->Decode(ids, true);
  }
  return true;
}

Corpus TokenizerCorpus() {
  using Json = nlohmann::ordered_json;
  Corpus corpus;
  // A short vocabulary keeps the documents short; bytes that it lacks are
  // part of what is tried.
  Json vocab = Json::object();
  int id = 0;
  for (const char* token : {"a", "b", "e", "n", "t", "h", "1", "2", "\u0120",
                            "\u010A", "<unk>", "th", "the", "ab", "abab",
                            "aa"}) {
    vocab[token] = id++;
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  Json plain = byte_level;
  plain["use_regex"] = false;
  const Json split = {
      {"type", "Split"},
      {"pattern", {{"Regex", "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
                             "\\p{N}{1,3}|\\s+(?!\\S)|\\s+"}}},
      {"behavior", "Removed"},
      {"invert", true}};
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const Json parts[] = {
      byte_level,
      {{"type", "Sequence"}, {"pretokenizers", Json::array({split, plain})}},
      {{"type", "Sequence"},
       {"pretokenizers", Json::array({digits, byte_level})}}};
  for (const Json& part : parts) {
    Json j;
    j["version"] = "1.0";
    j["added_tokens"] = Json::array(
        {{{"id", 16}, {"content", "<|end|>"}, {"special", true}},
         {{"id", 17}, {"content", "[M]"}, {"lstrip", true}, {"rstrip", true}},
         {{"id", 18}, {"content", "  "}, {"normalized", true}}});
    j["normalizer"] = nullptr;
    j["pre_tokenizer"] = part;
    j["post_processor"] = nullptr;
    j["decoder"] = {{"type", "ByteLevel"}};
    j["model"] = {{"type", "BPE"},
                  {"unk_token", "<unk>"},
                  {"ignore_merges", corpus.seeds.size() == 1},
                  {"vocab", vocab},
                  {"merges", {"t h", "th e", "a b", "ab ab", "a a"}}};
    corpus.seeds.push_back(j.dump());
  }
  corpus.words = {"\"Regex\":", "\"String\":", "\\\\p{L}", "\\\\s", "(?=",
                  "(?<!", "(?i:", "*", "+", "{1,9}", "[^", "]", "|", "(a|aa)+",
                  ".*", "\"Isolated\"", "\"Digits\"", "null", "true",
                  "\"byte_fallback\":true,", "\"type\":", "\\u0120", "\"a b\",",
                  "[\"a\",\"a\"],", "\"vocab\":{", ":4194303,", "\\\\x{10FFFF}",
                  "[\\\\p{L}-z]", "\\\\u0041", "x*"};
  return corpus;
}

}  // namespace motet::fuzz
