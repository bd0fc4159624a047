// SPDX-License-Identifier: Apache-2.0
#include "coordinator/encoder_package.h"

#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/model/tokenizer.h"
#include "compose/package/encoder_folder.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/package_folder.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

constexpr const char* kFurther[] = {"config.json", "modules.json",
                                    "1_Pooling/config.json",
                                    "sentence_bert_config.json"};

std::string Readme(const std::string& id, const package::LoadedEncoder& e) {
  return absl::StrFormat(
      "# %s\n\nThe base encoder of a Motet federation: one index of its "
      "document vectors serves every expert, and experts are adapters of its "
      "query side.\n\n- BERT, %d layers, width %d, vocabulary %d\n- texts are "
      "cut at %d tokens; vectors are means of hidden states%s\n- trained "
      "elsewhere; imported as it was\n",
      id, e.config.layers, e.config.width, e.config.vocabulary, e.max_tokens,
      e.normalise ? ", of length 1" : "");
}

}  // namespace

absl::StatusOr<bool> IsEncoderFolder(const std::string& folder) {
  MOTET_ASSIGN_OR_RETURN(
      const std::string text,
      proto::ReadFile(folder + "/config.json", proto::kMaxConfigBytes));
  const auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object()) return false;
  const auto type = config.find("model_type");
  return type != config.end() && *type == "bert";
}

absl::Status WriteEncoderPackage(const Federation& federation,
                                 const std::string& encoder,
                                 const std::string& package_folder,
                                 const std::string& id,
                                 const std::string& spdx) {
  MOTET_ASSIGN_OR_RETURN(const auto loaded, package::LoadEncoder(encoder));
  package::PackageContent content;
  std::string& tokenizer_json = content.files["tokenizer.json"];
  MOTET_ASSIGN_OR_RETURN(
      tokenizer_json,
      proto::ReadFile(encoder + "/tokenizer.json", proto::kMaxTokenizerBytes));
  MOTET_ASSIGN_OR_RETURN(const auto tokenizer,
                         model::Tokenizer::Parse(tokenizer_json));
  if (tokenizer->vocabulary() > loaded->config.vocabulary) {
    return proto::Invalid(
        encoder,
        absl::StrCat(tokenizer->vocabulary(), " tokens in tokenizer.json"),
        absl::StrCat("at most the encoder's ", loaded->config.vocabulary));
  }
  v1::ExpertManifest& m = content.manifest;
  m.set_id(id);
  m.set_kind(package::kEncoder);
  m.set_title("Base encoder");
  *m.mutable_model() = package::ShapeOfEncoder(loaded->config);
  m.mutable_domain()->set_domain("public");
  m.mutable_training()->set_method("imported");
  m.mutable_training()->set_software("motet " MOTET_VERSION);
  m.mutable_licence()->set_spdx(spdx);
  model::EncoderWeights weights = loaded->weights;
  model::VisitEncoderWeights(
      loaded->config, weights,
      [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
        content.weights.push_back({name, tensor});
      });
  // By way of a folder: there is one writer of an encoder's files.
  const std::string written = federation.Path("work/encoder");
  std::error_code ignored;
  std::filesystem::remove_all(written, ignored);
  MOTET_RETURN_IF_ERROR(package::SaveEncoder(written, loaded->config,
                                             loaded->weights, loaded->normalise,
                                             loaded->max_tokens));
  for (const char* name : kFurther) {
    MOTET_ASSIGN_OR_RETURN(content.files[name],
                           proto::ReadFile(absl::StrCat(written, "/", name),
                                           proto::kMaxConfigBytes));
  }
  std::filesystem::remove_all(written, ignored);
  content.readme = Readme(id, *loaded);
  MOTET_ASSIGN_OR_RETURN(
      const std::string key,
      proto::ReadFile(federation.tls.private_key, proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(
      const std::string certificate,
      proto::ReadFile(federation.tls.certificate, proto::kMaxCertificateBytes));
  return package::BuildPackage(package_folder, content, key, certificate);
}

}  // namespace motet::coordinator
