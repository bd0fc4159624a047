// SPDX-License-Identifier: Apache-2.0
#include "compose/math/tensor.h"
#include "compose/package/manifest.h"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {

bool Manifest(const std::string& json) {
  const auto manifest = package::ParseManifest(json);
  if (!manifest.ok()) return false;
  const bool good = package::CheckManifest(*manifest).empty();
  (void)package::CheckFiles(*manifest, {});
  const auto written = package::WriteManifest(*manifest);
  if (!good) return false;
  MOTET_CHECK(written.ok());
  const auto again = package::ParseManifest(*written);
  MOTET_CHECK(again.ok());
  MOTET_CHECK(*package::WriteManifest(*again) == *written);
  return true;
}

Corpus ManifestCorpus() {
  Corpus corpus;
  v1::ExpertManifest m;
  const std::string hex(64, 'a');
  m.set_schema_version(1);
  m.set_id("clinic.example/cardiology@1.0.0");
  m.set_kind("ffn");
  m.set_title("Cardiology");
  m.mutable_base()->set_id("choir/base@1.0.0");
  m.mutable_base()->set_manifest_sha256(hex);
  m.mutable_base()->set_weights_sha256(hex);
  m.mutable_base()->set_tokenizer_sha256(hex);
  m.set_frozen_sha256(hex);
  m.mutable_model()->set_block("olmo2");
  m.mutable_model()->set_layers(1);
  m.mutable_model()->set_width(2);
  m.mutable_model()->set_ffn_width(3);
  m.mutable_model()->set_vocabulary(8);
  for (const char* path : {"README.md", "weights.safetensors"}) {
    v1::FileDigest* file = m.add_files();
    file->set_path(path);
    file->set_size_bytes(12);
    file->set_sha256(hex);
  }
  const struct {
    const char* name;
    std::vector<uint64_t> shape;
  } tensors[] = {{"layers.0.mlp.gate_proj.weight", {3, 2}},
                 {"layers.0.mlp.up_proj.weight", {3, 2}},
                 {"layers.0.mlp.down_proj.weight", {2, 3}},
                 {"layers.0.router.row", {2}},
                 {"layers.0.router.bias", {1}}};
  for (const auto& [name, shape] : tensors) {
    v1::TensorDigest* t = m.add_tensors();
    t->set_name(name);
    t->set_dtype("F32");
    for (const uint64_t dim : shape) t->add_shape(dim);
    t->set_sha256(hex);
  }
  m.mutable_domain()->set_domain("cardiology");
  v1::AnchoredStatistics* a = m.mutable_domain()->mutable_anchored();
  a->set_smoothing(0.8);
  a->set_gate_quantile(0.97);
  v1::LayerStatistics* layer = a->add_layers();
  for (const float x : {0.5f, -1.25f}) {
    layer->add_base_mean(x);
    layer->add_pair_mean(x);
  }
  layer->set_threshold(3);
  m.mutable_training()->set_method("flexolmo");
  (*m.mutable_training()->mutable_hyper_parameters())["lr"] = 1e-3;
  m.mutable_training()->add_loss_curve(4.5);
  m.mutable_licence()->set_spdx("CC-BY-4.0");
  m.mutable_licence()->add_forbidden_purposes("advertising");
  m.mutable_licence()->set_not_after("2027-12-31");
  m.set_created_at("2026-01-31T12:00:00Z");
  corpus.seeds.push_back(*package::WriteManifest(m));
  m.set_kind("dense");
  m.clear_frozen_sha256();
  *m.add_base_tensors() = m.tensors(0);
  m.mutable_tensors()->DeleteSubrange(0, 1);
  corpus.seeds.push_back(*package::WriteManifest(m));
  m.clear_base_tensors();
  m.set_kind("base");
  m.clear_base();
  m.clear_frozen_sha256();
  m.clear_tensors();
  corpus.seeds.push_back(*package::WriteManifest(m));
  corpus.words = {"\"schema_version\": 1,", "\"schemaVersion\": 1,",
                  "\"id\": \"a/b@1.2.3\",", "\"kind\": \"base\",",
                  "\"NaN\"", "\"Infinity\"", "\"\\u001b\"", "null", "[]", "{}",
                  "\"files\": [", "\"layers\": [", "2026-02-29", "T24:00:00Z",
                  "\\ud800", "../", "\"shape\": [\"1\"],", "1e-320", "@", "/"};
  return corpus;
}

}  // namespace motet::fuzz
