// SPDX-License-Identifier: Apache-2.0
// The manifests of retrieval packages: what owners say of their pilots and
// adapters, and an adapter's own config.
#include <map>
#include <set>

#include "compose/math/tensor.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/peft.h"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {
namespace {

// What readers of a manifest that was taken rely on (METHODS 9): a row of the
// table for each group, of an expert that was scored, above the owner's floor.
void CheckPilots(const v1::ExpertManifest& m) {
  const v1::PilotRecord& p = m.pilots();
  MOTET_CHECK(p.groups_size() > 0 && p.groups_size() <= p.experts_size());
  MOTET_CHECK(p.experts_size() <= package::kMaxPilotExperts);
  std::map<std::string, int> scored;
  for (const v1::PilotExpert& e : p.experts()) {
    MOTET_CHECK(scored.emplace(e.id(), static_cast<int>(scored.size())).second);
    MOTET_CHECK(e.weights_sha256().size() == 64);
  }
  MOTET_CHECK(scored.contains(p.of()));
  MOTET_CHECK(p.of().substr(0, p.of().find('/')) ==
              m.id().substr(0, m.id().find('/')));
  int last = -1;
  uint64_t queries = 0;
  for (const v1::PilotGroup& g : p.groups()) {
    MOTET_CHECK(scored.contains(g.expert()) && scored[g.expert()] > last);
    last = scored[g.expert()];
    MOTET_CHECK(g.queries() >= 1 && g.queries() >= p.min_queries());
    queries += g.queries();
    MOTET_CHECK(p.gate_share() > 0 ? g.gate() >= -1 && g.gate() <= 1
                                   : g.gate() == 0);
  }
  MOTET_CHECK(p.gate_share() >= 0 && p.gate_share() <= 0.5);
  // No more groups' queries than were ranked.
  MOTET_CHECK(queries <=
              p.scorings() / static_cast<uint64_t>(p.experts_size()));
  MOTET_CHECK(p.noise() >= 0 && p.noise() <= 100);
  MOTET_CHECK(m.tensors_size() == 1 && m.tensors(0).shape_size() == 2);
  MOTET_CHECK(m.tensors(0).shape(0) ==
              static_cast<uint64_t>(p.groups_size()));
  MOTET_CHECK(m.tensors(0).shape(1) == m.model().width());
}

void CheckAdapter(const v1::ExpertManifest& m) {
  const v1::AdapterRecord& a = m.adapter();
  MOTET_CHECK(a.rank() >= 1 && a.rank() <= m.model().width());
  MOTET_CHECK(a.alpha() > 0 && a.targets_size() > 0);
  MOTET_CHECK(m.tensors_size() % 2 == 0);
}

v1::ExpertManifest Begin(const char* id, const char* kind) {
  v1::ExpertManifest m;
  const std::string hex(64, 'a');
  m.set_schema_version(1);
  m.set_id(id);
  m.set_kind(kind);
  m.set_title("Law");
  m.mutable_base()->set_id("choir/base@1.0.0");
  m.mutable_base()->set_manifest_sha256(hex);
  m.mutable_base()->set_weights_sha256(hex);
  m.mutable_base()->set_tokenizer_sha256(hex);
  m.mutable_model()->set_block("bert");
  m.mutable_model()->set_layers(1);
  m.mutable_model()->set_width(2);
  m.mutable_model()->set_ffn_width(3);
  m.mutable_model()->set_vocabulary(8);
  m.mutable_domain()->set_domain("law");
  m.mutable_licence()->set_spdx("CC-BY-4.0");
  m.set_created_at("2026-01-31T12:00:00Z");
  return m;
}

void AddFile(v1::ExpertManifest& m, const char* path) {
  v1::FileDigest* file = m.add_files();
  file->set_path(path);
  file->set_size_bytes(12);
  file->set_sha256(std::string(64, 'a'));
}

void AddTensor(v1::ExpertManifest& m, const std::string& name, uint64_t rows,
               uint64_t columns) {
  v1::TensorDigest* t = m.add_tensors();
  t->set_name(name);
  t->set_dtype("F32");
  t->add_shape(rows);
  t->add_shape(columns);
  t->set_sha256(std::string(64, 'a'));
}

v1::ExpertManifest AdapterManifest() {
  v1::ExpertManifest m = Begin("law.example/law@1.0.0", "embedding_adapter");
  m.mutable_adapter()->set_rank(1);
  m.mutable_adapter()->set_alpha(8);
  m.mutable_adapter()->add_targets("query");
  m.mutable_adapter()->set_queries(20);
  for (const char* path :
       {"README.md", "adapter_config.json", "adapter_model.safetensors"}) {
    AddFile(m, path);
  }
  AddTensor(m, "layer.0.attention.self.query.lora_A.weight", 1, 2);
  AddTensor(m, "layer.0.attention.self.query.lora_B.weight", 2, 1);
  return m;
}

v1::ExpertManifest PilotsManifest() {
  v1::ExpertManifest m = Begin("law.example/pilots-law@1.0.0", "pilots");
  v1::PilotRecord& p = *m.mutable_pilots();
  p.set_of("law.example/law@1.0.0");
  const char* const ids[] = {"law.example/law@1.0.0", "sea.example/sea@2.0.0",
                             "art.example/art@1.2.3"};
  for (const char* id : ids) {
    v1::PilotExpert* e = p.add_experts();
    e->set_id(id);
    e->set_weights_sha256(std::string(64, 'b'));
  }
  for (const int group : {0, 2}) {
    v1::PilotGroup* g = p.add_groups();
    g->set_expert(ids[group]);
    g->set_queries(20);
    g->set_gate(0.5);
  }
  p.set_gate_share(0.1);
  p.set_min_queries(20);
  p.set_withheld(1);
  p.set_scorings(3 * 45);
  p.set_noise(0.01);
  AddFile(m, "README.md");
  AddFile(m, "weights.safetensors");
  AddTensor(m, "pilots", 2, 2);
  return m;
}

}  // namespace

bool Pilots(const std::string& json) {
  if (!Manifest(json)) return false;
  const auto m = package::ParseManifest(json);
  MOTET_CHECK(m.ok());
  if (m->kind() == package::kPilots) CheckPilots(*m);
  if (m->kind() == package::kEmbeddingAdapter) CheckAdapter(*m);
  MOTET_CHECK(m->has_pilots() == (m->kind() == package::kPilots));
  return true;
}

Corpus PilotsCorpus() {
  Corpus corpus;
  corpus.seeds = {*package::WriteManifest(PilotsManifest()),
                  *package::WriteManifest(AdapterManifest())};
  corpus.words = {"\"pilots\"",
                  "\"embedding_adapter\"",
                  "\"groups\": [],",
                  "\"min_queries\": \"0\",",
                  "\"scorings\": \"18446744073709551615\",",
                  "\"withheld\": \"18446744073709551615\",",
                  "\"queries\": \"18446744073709551615\"",
                  "\"queries\": \"1000000000\"",
                  "\"noise\": \"NaN\",",
                  "-1",
                  "1e308",
                  "\"of\": \"law.example/law@1.0.0\",",
                  "\"rank\": 4294967295,",
                  "sea.example/sea@2.0.0",
                  "\"shape\": [\"3\", \"2\"],",
                  "135",
                  "20"};
  return corpus;
}

bool AdapterConfig(const std::string& json) {
  const auto config = package::ParseLoraConfig(json);
  if (!config.ok()) return false;
  // LoadLora asks both; what the encoder can carry is written and read back.
  model::EncoderConfig encoder;
  encoder.width = 16;
  encoder.ffn_width = 24;
  encoder.heads = 2;
  encoder.layers = 1;
  if (!model::CheckLoraConfig(encoder, *config).ok()) return false;
  MOTET_CHECK(config->rank > 0 && !config->targets.empty());
  const auto again =
      package::ParseLoraConfig(package::WriteLoraConfig(*config, "base"));
  MOTET_CHECK(again.ok() && again->rank == config->rank &&
              again->alpha == config->alpha &&
              again->targets == config->targets);
  return true;
}

Corpus AdapterConfigCorpus() {
  Corpus corpus;
  corpus.seeds = {
      R"({"peft_type": "LORA", "r": 8, "lora_alpha": 32, "lora_dropout": 0.1,
          "target_modules": ["query", "value"], "bias": "none",
          "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": null})",
      R"({"peft_type": "LORA", "r": 1, "lora_alpha": 0.5,
          "target_modules": ["key"], "use_rslora": false, "use_dora": false})"};
  corpus.words = {"\"r\": 0", "\"r\": 1e300", "-1",   "null",
                  "[]",       "{}",            "true", "\"use_rslora\": true",
                  "\\ud800",  "1e999",         "\"r\": 9223372036854775807"};
  return corpus;
}

}  // namespace motet::fuzz
