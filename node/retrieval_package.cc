// SPDX-License-Identifier: Apache-2.0
#include "node/retrieval_package.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/manifest_adapter.h"
#include "compose/package/manifest_retrieval.h"
#include "node/expert_package.h"
#include "node/plan_check.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::node {
namespace {

void FillCommon(const Settings& settings, const Policy& policy,
                const v1::TrainingPlan& plan, int64_t documents,
                v1::ExpertManifest& m) {
  m.set_id(PackageId(plan, settings));
  m.set_title(settings.title);
  v1::DomainDescriptor* domain = m.mutable_domain();
  domain->set_domain(settings.domain);
  for (const std::string& tag : settings.tags) domain->add_tags(tag);
  for (const std::string& l : settings.languages) domain->add_languages(l);
  domain->set_documents(static_cast<uint64_t>(documents));
  v1::TrainingRecord* record = m.mutable_training();
  record->set_method(plan.method());
  record->set_plan_sha256(proto::Hex(proto::Sha256(PlanJson(plan))));
  record->set_seed(plan.seed());
  record->set_software("motet " MOTET_VERSION);
  record->set_device(ProcessorName());
  *m.mutable_licence() = policy.licence;
}

std::string LicenceLine(const v1::LicenceTerms& licence) {
  return absl::StrCat(
      "- licence: ", licence.spdx(),
      licence.forbidden_purposes().empty()
          ? ""
          : absl::StrCat("; not for ",
                         absl::StrJoin(licence.forbidden_purposes(), ", ")),
      licence.attribution().empty()
          ? ""
          : absl::StrCat("\n- attribution: ", licence.attribution()),
      "\n");
}

}  // namespace

absl::Status WriteAdapterPackage(const Settings& settings, const Policy& policy,
                                 const v1::TrainingPlan& plan,
                                 const EncoderBase& base,
                                 const TrainedAdapter& trained,
                                 const std::string& job_folder) {
  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  FillCommon(settings, policy, plan, trained.documents, m);
  package::FillAdapter(base.package, base.encoder->config(), trained.lora.lora,
                       static_cast<uint64_t>(trained.queries), content);
  v1::TrainingRecord* record = m.mutable_training();
  record->set_steps(static_cast<uint64_t>(trained.result.steps));
  record->set_tokens(static_cast<uint64_t>(trained.result.tokens));
  record->mutable_loss_curve()->Assign(trained.result.loss_curve.begin(),
                                       trained.result.loss_curve.end());
  record->set_loss_every(static_cast<uint64_t>(trained.result.loss_every));
  record->set_seconds(trained.result.seconds);
  auto& hyper = *record->mutable_hyper_parameters();
  hyper["batch_queries"] = plan.batch_sequences();
  hyper["query_tokens"] = plan.sequence_tokens();
  hyper["max_queries"] = static_cast<double>(plan.max_queries());
  hyper["dropout"] = plan.adapter_dropout();
  hyper["temperature"] = plan.temperature();
  hyper["hard_negatives"] = plan.hard_negatives();
  hyper["learning_rate"] = plan.learning_rate();
  hyper["warmup_steps"] = static_cast<double>(plan.warmup_steps());
  hyper["clip_norm"] = plan.clip_norm();
  hyper["weight_decay"] = plan.weight_decay();
  hyper["bf16_products"] =
      base.encoder->product() == math::Product::kBf16 ? 1 : 0;
  content.readme = absl::StrCat(
      "# ", m.title(), "\n\n`", m.id(),
      "` is an adapter of the query encoder `", m.base().id(),
      "` of a Motet federation (manifest ", m.base().manifest_sha256(),
      ").\n\n- domain: ", m.domain().domain(), "\n- rank ", m.adapter().rank(),
      ", alpha ", m.adapter().alpha(), ", of ",
      absl::StrJoin(m.adapter().targets(), " and "), "; trained on ",
      m.adapter().queries(),
      " queries; documents are the base's business, and no text is in this "
      "package\n",
      LicenceLine(m.licence()),
      "\nFiles: `adapter_model.safetensors` and `adapter_config.json` are "
      "PEFT's;\n`manifest.json` says the rest, `model.sig` signs all files "
      "(OpenSSF Model Signing).\n");
  return SealPackage(settings, content, base.package, job_folder);
}

absl::Status WritePilotsPackage(const Settings& settings, const Policy& policy,
                                const v1::TrainingPlan& plan,
                                const EncoderBase& base,
                                const OwnersPilots& pilots,
                                const std::string& job_folder) {
  const v1::ScoredExpert* own = OwnScored(plan, settings.owner);
  if (own == nullptr) {
    return proto::Invalid("plan", "no adapter of this owner's", "one");
  }
  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  FillCommon(settings, policy, plan, pilots.documents, m);
  m.set_kind(package::kPilots);
  *m.mutable_base() = package::ReferenceTo(base.package);
  *m.mutable_model() = base.package.manifest.model();
  m.mutable_training()->set_seconds(pilots.seconds);
  v1::PilotRecord* record = m.mutable_pilots();
  record->set_of(own->id());
  for (const v1::ScoredExpert& e : plan.scored()) {
    v1::PilotExpert* expert = record->add_experts();
    expert->set_id(e.id());
    expert->set_weights_sha256(e.weights_sha256());
  }
  std::vector<float> rows;
  for (const retrieve::PilotGroup& group : pilots.made.groups) {
    v1::PilotGroup* g = record->add_groups();
    g->set_expert(plan.scored(group.expert).id());
    g->set_queries(static_cast<uint64_t>(group.queries));
    if (pilots.gate_share > 0) g->set_gate(group.gate);
    rows.insert(rows.end(), group.mean.begin(), group.mean.end());
  }
  record->set_min_queries(static_cast<uint64_t>(policy.min_queries));
  record->set_withheld(static_cast<uint64_t>(pilots.made.withheld));
  record->set_scorings(static_cast<uint64_t>(pilots.made.scorings));
  record->set_noise(policy.pilot_noise);
  record->set_gate_share(pilots.gate_share);
  math::Tensor table;
  table.data = rows.data();
  table.shape = {static_cast<int64_t>(pilots.made.groups.size()),
                 base.encoder->width()};
  content.weights.push_back({package::kPilotsTensor, table});
  content.readme = absl::StrCat(
      "# ", m.title(), ": pilots\n\n`", m.id(), "` goes with `", own->id(),
      "`: means of the base encoder's vectors of its owner's training "
      "queries, grouped by the expert that ranks best for them.\n\n- ",
      record->groups_size(), " groups, of ", record->min_queries(),
      " queries at least, each with its reach; ",
      record->withheld(), " smaller ones stayed with the owner\n- no query and no document is in "
      "this package\n",
      LicenceLine(m.licence()),
      "\nFiles: `weights.safetensors` holds the means;\n`manifest.json` says "
      "the rest, `model.sig` signs all files (OpenSSF Model Signing).\n");
  return SealPackage(settings, content, base.package, job_folder);
}

}  // namespace motet::node
