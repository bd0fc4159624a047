// SPDX-License-Identifier: Apache-2.0
// model.sig: a Sigstore bundle holding a DSSE envelope over an in-toto
// statement with the digest of every file of a package, in the OpenSSF Model
// Signing layout (v1.0), ECDSA P-256 with SHA-256. The signer's certificate
// travels in the bundle, so that the federation's authority is all that a
// verifier needs; stock `model_signing verify` accepts the file too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"

namespace motet::proto {

struct SignedFile {
  std::string path;  // relative to the package, '/' separated
  Digest sha256;
};

// Returns the bytes of model.sig. `files`: every file but model.sig; sorted
// here. name: the package id, becomes the statement's subject.
absl::StatusOr<std::string> SignFiles(const std::string& name,
                                      std::vector<SignedFile> files,
                                      const std::string& private_pem,
                                      const std::string& certificate_pem);

struct SignatureInfo {
  std::string name;
  std::vector<SignedFile> files;   // sorted by path
  std::string certificate_pem;     // the signer's
};
// Checks layout, signature, root digest and that the certificate chains to
// the authority. Does not touch files.
// `when`: Unix seconds at which the certificate has to be valid, such as when
// a registry took the package; 0 = now.
absl::StatusOr<SignatureInfo> VerifySignature(
    const std::string& model_sig, const std::string& authority_pem,
    int64_t when = 0);
// VerifySignature, then (else DataLoss) that exactly the signed files, plus
// model.sig, lie in the folder with the signed digests. All differences in
// one message.
absl::StatusOr<SignatureInfo> VerifyPackageFolder(
    const std::string& folder, const std::string& authority_pem,
    int64_t when = 0);

// A path that may stand in a package: relative, '/' separated, printable
// ASCII, no "..", no backslash, at most kMaxPathBytes. `where` opens the
// message.
absl::Status CheckPackagePath(absl::string_view where, absl::string_view path);

}  // namespace motet::proto
