// SPDX-License-Identifier: Apache-2.0
// motet expert import HF_DIR --as owner/name[@version] --node FOLDER: a model
// that was fine-tuned elsewhere from the federation's base, or a LoRA adapter
// for it, becomes a signed package of a whole model and is published. Where
// the base is an encoder, an adapter stays one. The key is an owner's node's:
// nobody publishes under another's name.
#include "coordinator/commands/expert_import.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/package/branch_check.h"
#include "compose/package/decoder_lora.h"
#include "compose/package/huggingface.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_adapter.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/package_folder.h"
#include "compose/package/peft.h"
#include "compose/package/weight_match.h"
#include "coordinator/federation.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"
#include "registry/client.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string folder;
  std::string as;
  std::string node;
  std::string kind;  // of whole models; none said: dense
  std::string domain, title, spdx, fisher;
  std::vector<std::string> forbidden_purposes;
};

// What is imported, ready to be split; keeps what is mapped or made.
struct Imported {
  std::unique_ptr<package::LoadedModel> base, model;
  std::unique_ptr<package::LoadedLora> lora;  // of an encoder
  model::EncoderConfig encoder;
  package::FoldedLora folded;
  std::shared_ptr<const package::SafetensorsFile> fisher;
  std::vector<package::NamedTensor> tensors;
  int64_t ffn_width = 0;
  v1::TrainingRecord training;
  std::string origin;
};

std::string IdOf(const Options& options) {
  return absl::StrContains(options.as, '@')
             ? options.as
             : absl::StrCat(options.as, "@1.0.0");
}

std::string KindOf(const Options& options) {
  return options.kind.empty() ? "dense" : options.kind;
}

absl::Status CheckTokenizer(const Options& options,
                            const std::string& base_folder) {
  const std::string path = options.folder + "/tokenizer.json";
  if (!proto::Exists(path)) return absl::OkStatus();  // the base's, then
  MOTET_ASSIGN_OR_RETURN(const std::string own,
                         proto::ReadFile(path, proto::kMaxTokenizerBytes));
  MOTET_ASSIGN_OR_RETURN(const std::string base,
                         proto::ReadFile(base_folder + "/tokenizer.json",
                                         proto::kMaxTokenizerBytes));
  if (package::SameTokenizer(own, base)) return absl::OkStatus();
  return proto::Invalid(path, "another tokenizer", "the base's",
                        "token ids would mean other text; import a model "
                        "that was fine-tuned with the base's tokenizer");
}

absl::Status LoadAdapter(const Options& options, Imported& imported) {
  MOTET_ASSIGN_OR_RETURN(
      imported.folded,
      package::FoldLora(options.folder, imported.base->config,
                        imported.base->weights));
  const model::LoraConfig& lora = imported.folded.config;
  imported.training.set_method("imported_lora");
  auto& hyper = *imported.training.mutable_hyper_parameters();
  hyper["lora_rank"] = static_cast<double>(lora.rank);
  hyper["lora_alpha"] = lora.alpha;
  imported.origin = absl::StrCat(
      "a LoRA adapter of rank ", lora.rank, " over ",
      absl::StrJoin(lora.targets, ", "), ", folded into the base");
  return absl::OkStatus();
}

absl::Status LoadCheckpoint(const Options& options, Imported& imported) {
  MOTET_ASSIGN_OR_RETURN(imported.model, package::LoadModel(options.folder));
  model::ModelConfig wanted = imported.base->config;
  if (KindOf(options) == "sized") {
    wanted.ffn_width = imported.model->config.ffn_width;
  }
  MOTET_RETURN_IF_ERROR(package::AsStatus(
      options.folder,
      package::DifferentFields(imported.model->config, wanted),
      "a branch of the federation's base",
      "import a model that was fine-tuned from it"));
  imported.training.set_method("imported");
  imported.origin = "trained elsewhere; imported as it was";
  return absl::OkStatus();
}

// Finite, and not below 0: it is a mean of squares.
absl::Status LoadFisher(const Options& options, Imported& imported) {
  if (options.fisher.empty()) return absl::OkStatus();
  MOTET_ASSIGN_OR_RETURN(imported.fisher,
                         package::SafetensorsFile::Open(options.fisher));
  for (const auto& entry : imported.fisher->entries()) {
    if (entry.tensor.dtype != math::DType::kF32) continue;  // refused later
    const float* f = entry.tensor.f32();
    for (int64_t i = 0; i < entry.tensor.size(); ++i) {
      if (std::isfinite(f[i]) && f[i] >= 0) continue;
      return proto::Invalid(options.fisher,
                            absl::StrCat(entry.name, " with ", f[i]),
                            "finite numbers from 0",
                            "Fisher information is a mean of squares");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Imported> Load(const Options& options,
                              const std::string& base_folder) {
  Imported imported;
  MOTET_ASSIGN_OR_RETURN(imported.base, package::LoadModel(base_folder));
  imported.training.set_software("motet " MOTET_VERSION);
  const bool adapter =
      proto::Exists(options.folder + "/adapter_config.json");
  if (!adapter && !proto::Exists(options.folder + "/config.json")) {
    return proto::Error(absl::StatusCode::kNotFound, options.folder,
                        "neither config.json nor adapter_config.json",
                        "a Hugging Face model or a PEFT adapter",
                        "check the path");
  }
  MOTET_RETURN_IF_ERROR(CheckTokenizer(options, base_folder));
  MOTET_RETURN_IF_ERROR(adapter ? LoadAdapter(options, imported)
                                : LoadCheckpoint(options, imported));
  MOTET_RETURN_IF_ERROR(LoadFisher(options, imported));
  model::ModelWeights weights =
      adapter ? imported.folded.weights : imported.model->weights;
  model::ModelConfig config = imported.base->config;
  if (!adapter) config.ffn_width = imported.model->config.ffn_width;
  imported.ffn_width = config.ffn_width;
  const absl::Status finite = package::CheckFinite(config, weights);
  if (!finite.ok()) {
    return absl::Status(finite.code(), absl::StrCat("[", options.folder, "] ",
                                                    finite.message()));
  }
  model::VisitWeights(
      config, weights,
      [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
        imported.tensors.push_back({name, tensor});
      });
  return imported;
}

// An adapter of the base encoder, as it is: nothing to fold it into.
absl::StatusOr<Imported> LoadForEncoder(const Options& options,
                                        const std::string& base_folder) {
  const std::string config = options.folder + "/adapter_config.json";
  if (!proto::Exists(config)) {
    return proto::Error(absl::StatusCode::kNotFound, options.folder,
                        "no adapter_config.json",
                        "a PEFT adapter: the federation's base is an encoder",
                        "check the path");
  }
  if (!options.kind.empty() || !options.fisher.empty()) {
    return proto::Invalid(options.kind.empty() ? "--fisher" : "--kind",
                          "an option of whole models",
                          "none for an adapter of an encoder");
  }
  Imported imported;
  MOTET_ASSIGN_OR_RETURN(
      const std::string base_config,
      proto::ReadFile(base_folder + "/config.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(imported.encoder,
                         model::ParseEncoderConfig(base_config));
  auto lora = package::LoadLora(options.folder, imported.encoder);
  if (!lora.ok()) {
    return absl::Status(lora.status().code(),
                        absl::StrCat("[", options.folder, "] ",
                                     lora.status().message()));
  }
  imported.lora = *std::move(lora);
  imported.training.set_method("imported_lora");
  imported.training.set_software("motet " MOTET_VERSION);
  const model::LoraConfig& l = imported.lora->lora.config;
  imported.origin =
      absl::StrCat("a LoRA adapter of rank ", l.rank, " over ",
                   absl::StrJoin(l.targets, ", "), ", imported as it was");
  return imported;
}

// What every import says.
void FillCommon(const Options& options, const Imported& imported,
                v1::ExpertManifest& m) {
  const std::string id = IdOf(options);
  const std::string name = id.substr(0, id.find('@')).substr(id.find('/') + 1);
  m.set_id(id);
  m.set_title(options.title.empty() ? name : options.title);
  m.mutable_domain()->set_domain(options.domain.empty() ? name
                                                        : options.domain);
  *m.mutable_training() = imported.training;
  m.mutable_licence()->set_spdx(options.spdx);
  for (const std::string& purpose : options.forbidden_purposes) {
    m.mutable_licence()->add_forbidden_purposes(purpose);
  }
}

package::PackageContent AdapterContentOf(const Options& options,
                                         const Imported& imported,
                                         const package::OpenedPackage& base) {
  package::PackageContent content;
  FillCommon(options, imported, content.manifest);
  package::FillAdapter(base, imported.encoder, imported.lora->lora,
                       /*queries=*/0, content);
  content.readme = absl::StrCat(
      "# ", content.manifest.title(), "\n\n`", content.manifest.id(),
      "` is an adapter of the encoder `", base.manifest.id(),
      "` of a Motet federation (manifest ", base.manifest_sha256, ").\n\n- ",
      imported.origin, "\n- licence: ", options.spdx, "\n");
  return content;
}

package::PackageContent ContentOf(const Options& options, Imported& imported,
                                  const package::OpenedPackage& base) {
  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  FillCommon(options, imported, m);
  const std::string& id = m.id();
  m.set_kind(KindOf(options));
  *m.mutable_base() = package::ReferenceTo(base);
  *m.mutable_model() = base.manifest.model();
  m.mutable_model()->set_ffn_width(static_cast<uint32_t>(imported.ffn_width));
  package::DenseContent split =
      package::SplitDense(imported.tensors, base.manifest);
  content.weights = std::move(split.weights);
  for (v1::TensorDigest& t : split.base_tensors) {
    *m.add_base_tensors() = std::move(t);
  }
  if (imported.fisher != nullptr) {
    auto& fisher = content.tensor_files[package::kFisherFile];
    for (const auto& e : imported.fisher->entries()) {
      fisher.push_back({e.name, e.tensor});
    }
  }
  content.readme = absl::StrCat(
      "# ", m.title(), "\n\n`", id, "` is a branch of the base `",
      base.manifest.id(), "` of a Motet federation (manifest ",
      base.manifest_sha256, ").\n\n- ", imported.origin, "\n- ",
      content.weights.size(), " tensors that differ from the base's are in "
      "`weights.safetensors`; ", m.base_tensors_size(),
      " are the base's, bit for bit\n- licence: ", options.spdx, "\n");
  return content;
}

// The node's files, and that it is the owner's.
absl::StatusOr<proto::TlsFiles> SignerOf(const Options& options) {
  const proto::TlsFiles files = {options.node + "/ca.pem",
                                 options.node + "/certificate.pem",
                                 options.node + "/key.pem"};
  MOTET_ASSIGN_OR_RETURN(
      const std::string pem,
      proto::ReadFile(files.certificate, proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(const proto::CertificateInfo info,
                         proto::InspectCertificate(pem));
  const std::string owner = options.as.substr(0, options.as.find('/'));
  if (info.id.role == "node" && info.id.owner == owner) return files;
  return proto::Error(absl::StatusCode::kPermissionDenied, "--node",
                      absl::StrCat("a certificate of ", info.id.ToString()),
                      absl::StrCat("one of a node of ", owner),
                      "an owner publishes under its own name only");
}

absl::Status Import(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const Federation federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(const proto::TlsFiles tls, SignerOf(options));
  MOTET_ASSIGN_OR_RETURN(
      const package::OpenedPackage base,
      package::OpenPackage(federation.Path("base"),
                           federation.authority_pem));
  const std::string id = IdOf(options);
  // Signed once; a publish that failed goes on with the same bytes.
  const std::string folder = federation.Path(absl::StrCat("imports/", id));
  if (proto::Exists(folder)) {
    absl::FPrintF(stderr,
                  "expert import: publishing what was built before, in %s; "
                  "remove it to build again\n",
                  folder);
  } else {
    const bool encoder = base.manifest.kind() == package::kEncoder;
    MOTET_ASSIGN_OR_RETURN(Imported imported,
                           encoder ? LoadForEncoder(options, base.folder)
                                   : Load(options, base.folder));
    MOTET_ASSIGN_OR_RETURN(
        const std::string key,
        proto::ReadFile(tls.private_key, proto::kMaxCertificateBytes));
    MOTET_ASSIGN_OR_RETURN(
        const std::string certificate,
        proto::ReadFile(tls.certificate, proto::kMaxCertificateBytes));
    MOTET_RETURN_IF_ERROR(
        package::BuildPackage(
            folder,
            encoder ? AdapterContentOf(options, imported, base)
                    : ContentOf(options, imported, base),
            key, certificate));
  }
  const auto opened =
      package::OpenPackage(folder, federation.authority_pem);
  const absl::Status fits =
      opened.ok() ? package::CheckAgainstBase(*opened, base)
                  : opened.status();
  std::error_code ignored;
  if (!fits.ok()) {
    std::filesystem::remove_all(folder, ignored);
    return fits;
  }
  MOTET_ASSIGN_OR_RETURN(
      const auto client,
      registry::Client::Make(federation.registry_address, tls));
  registry::PublishOptions publish;
  MOTET_ASSIGN_OR_RETURN(publish.cuts, package::ChunkCutsOf(folder));
  ProgressLine progress(absl::StrCat("publish ", id));
  publish.progress = [&](uint64_t done, uint64_t total) {
    progress.Update(total == 0 ? 1 : static_cast<double>(done) / total, "");
    return true;
  };
  MOTET_RETURN_IF_ERROR(client->Publish(folder, id, publish).status());
  progress.Finish("in the registry");
  const int stored = opened->manifest.tensors_size();
  const int shared = opened->manifest.base_tensors_size();
  std::filesystem::remove_all(folder, ignored);
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"id", id},
                             {"manifest_sha256", opened->manifest_sha256},
                             {"tensors", stored},
                             {"base_tensors", shared}}));
  } else {
    absl::PrintF("%s published: %d tensors of its own, %d of the base's\n",
                 id, stored, shared);
  }
  return absl::OkStatus();
}

}  // namespace

void AddExpertImport(CLI::App& noun, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "import", "Publish a fine-tuned model, or a LoRA adapter folded into "
                "the base, as a package that is a whole model; or a LoRA "
                "adapter of a base encoder, as an adapter");
  command
      ->add_option("folder", o->folder,
                   "A Hugging Face model of the base's shape, or a PEFT "
                   "adapter for it")
      ->required();
  command->add_option("--as", o->as, "owner/name[@version]; version 1.0.0")
      ->required();
  command
      ->add_option("--node", o->node,
                   "The folder of the owner's node: its key signs")
      ->required();
  command
      ->add_option("--kind", o->kind,
                   "Of a whole model: dense, if not said; attention_ffn, where "
                   "its attention is offered as an expert too; sized, whose "
                   "FFN width may be its own")
      ->check(CLI::IsMember({"dense", "attention_ffn", "sized"}));
  command->add_option("--domain", o->domain,
                      "Label of its domain; default: the name");
  command->add_option("--title", o->title, "For people");
  command->add_option("--licence", o->spdx, "An SPDX expression")->required();
  command
      ->add_option("--forbid-purpose", o->forbidden_purposes,
                   "What it may not be asked for; once for each")
      ->allow_extra_args(false);
  command->add_option("--fisher", o->fisher,
                      "Its Fisher information, safetensors, for merges");
  SetAction(command, context, [o, &context] { return Import(*o, context); });
}

}  // namespace motet::coordinator
