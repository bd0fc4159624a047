// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_adapter.h"

#include "compose/package/manifest_retrieval.h"
#include "compose/package/peft.h"

namespace motet::package {

void FillAdapter(const OpenedPackage& base, const model::EncoderConfig& config,
                 const model::Lora& lora, uint64_t queries,
                 PackageContent& content) {
  v1::ExpertManifest& m = content.manifest;
  m.set_kind(kEmbeddingAdapter);
  *m.mutable_base() = ReferenceTo(base);
  *m.mutable_model() = base.manifest.model();
  v1::AdapterRecord* adapter = m.mutable_adapter();
  adapter->set_rank(static_cast<uint32_t>(lora.config.rank));
  adapter->set_alpha(lora.config.alpha);
  for (const std::string& target : lora.config.targets) {
    adapter->add_targets(target);
  }
  adapter->set_queries(queries);
  content.weights = LoraTensors(config, lora);
  content.files["adapter_config.json"] =
      WriteLoraConfig(lora.config, base.manifest.id());
}

}  // namespace motet::package
