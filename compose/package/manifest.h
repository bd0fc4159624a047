// SPDX-License-Identifier: Apache-2.0
// manifest.json: read once, written once (docs/package.md). Its bytes as
// stored are what is digested and signed; nobody re-serialises. Everything
// that is wrong with a manifest is found in one pass and returned as a list
// of reasons, each a phrase such as "id is \"x\", want owner/name@1.2.3".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/model/config.h"
#include "compose/package/safetensors.h"
#include "manifest.pb.h"

namespace motet::package {

// Refuses bytes beyond the limit, malformed JSON, repeated keys, and, all at
// once, fields that ExpertManifest lacks or spells otherwise (only snake_case
// is taken) and values of another type. Says nothing about what they mean.
absl::StatusOr<v1::ExpertManifest> ParseManifest(absl::string_view bytes);

// The bytes to store: indented JSON, fields in the order of the schema, maps
// by key. The same message always gives the same bytes.
absl::StatusOr<std::string> WriteManifest(const v1::ExpertManifest& manifest);

// What can be seen from the manifest alone: versions, ids, digests, dates,
// texts without control characters, finite numbers, files, and for its kind
// the tensors, their shapes and the lengths of the statistics.
std::vector<std::string> CheckManifest(const v1::ExpertManifest& manifest);

// The manifest's files against what lies in the folder (manifest.json and
// model.sig left out). Digests in hex.
struct FileFacts {
  uint64_t size_bytes = 0;
  std::string sha256;
};
std::vector<std::string> CheckFiles(
    const v1::ExpertManifest& manifest,
    const std::map<std::string, FileFacts>& folder);

// The manifest's tensor table against its weights file: names, dtypes,
// shapes and the digest of every tensor's bytes.
std::vector<std::string> CheckTensors(const v1::ExpertManifest& manifest,
                                      const SafetensorsFile& weights);
// The table as CheckTensors wants it, by name.
std::vector<v1::TensorDigest> TensorTable(const SafetensorsFile& weights);
// One line of it; ShapeOfTensor leaves the digest out.
v1::TensorDigest DigestOfTensor(const std::string& name,
                                const math::Tensor& tensor);
v1::TensorDigest ShapeOfTensor(const std::string& name,
                               const math::Tensor& tensor);

// The model shape against the base's config.json, and anchor.safetensors
// against the model shape.
std::vector<std::string> CheckBase(const v1::ExpertManifest& manifest,
                                   const model::ModelConfig& config,
                                   const SafetensorsFile& anchor);

// OK when there are no reasons; else one InvalidArgument with all of them.
absl::Status AsStatus(absl::string_view where,
                      const std::vector<std::string>& reasons,
                      absl::string_view want, absl::string_view hint = "");

}  // namespace motet::package
