// SPDX-License-Identifier: Apache-2.0
// Package folders (docs/package.md): made, and opened with every check.
// Package digest = SHA-256 of manifest.json's bytes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/package/safetensors.h"
#include "manifest.pb.h"

namespace motet::package {

struct OpenedPackage {
  std::string folder;
  v1::ExpertManifest manifest;
  std::string manifest_sha256;  // hex
  std::shared_ptr<const SafetensorsFile> weights;
  std::string signer;           // SPIFFE id of the signing certificate
};

// Signature (against the authority) and every file's digest first: DataLoss
// or what VerifyPackageFolder says. Then manifest, file and tensor tables, a
// base's config and anchor, and that the signer may sign this id (a node of
// the owner; for a base or an encoder a coordinator of the federation that
// the id names): one InvalidArgument with all reasons. Then the package may be used.
absl::StatusOr<OpenedPackage> OpenPackage(const std::string& folder,
                                          const std::string& authority_pem);

// An expert against its base: base and tokenizer digests, layers, widths; for
// "ffn" the frozen digest, for whole models every tensor's name and shape and
// the digests of those that do not travel, for adapters targets, rank and the
// shape of every tensor. All reasons at once.
absl::Status CheckAgainstBase(const OpenedPackage& expert,
                              const OpenedPackage& base);

// What experts and locks say of this base package.
v1::BaseReference ReferenceTo(const OpenedPackage& base);
// SHA-256 (hex) over "name sha256\n" of the base's tensors, sorted by name.
std::string FrozenDigest(const v1::ExpertManifest& base_manifest);

struct PackageContent {
  // Filled by the caller: id, kind, title, base, model, frozen_sha256,
  // base_tensors, domain, training, licence, adapter, pilots. The rest (schema version, files,
  // tensors, created_at) is filled here.
  v1::ExpertManifest manifest;
  std::vector<NamedTensor> weights;          // weights.safetensors, or as
                                             // the kind names it
  std::map<std::string, std::string> files;  // further files: name -> bytes
  // Further safetensors files: name -> tensors.
  std::map<std::string, std::vector<NamedTensor>> tensor_files;
  std::string readme;                        // README.md
};
// Writes the folder whole or not at all (a temporary folder beside it is
// renamed), signed with the key. AlreadyExists when the folder is there;
// InvalidArgument with all reasons when the manifest would not be accepted;
// ResourceExhausted when the disk is full. After any error nothing is left.
// created_at is kept when the caller filled it. Two calls differ in their
// signature's bytes: build once, then publish until it succeeds.
absl::Status BuildPackage(const std::string& folder,
                          const PackageContent& content,
                          const std::string& private_pem,
                          const std::string& certificate_pem);

// Ascending offsets at which chunks of the file must begin so that none
// straddles a tensor: where each tensor of at least one byte begins.
std::vector<uint64_t> ChunkCuts(const SafetensorsFile& file);
// For the registry: the cuts of each *.safetensors file of the folder.
absl::StatusOr<std::map<std::string, std::vector<uint64_t>>> ChunkCutsOf(
    const std::string& folder);

}  // namespace motet::package
