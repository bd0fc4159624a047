// SPDX-License-Identifier: Apache-2.0
// The facts of the OpenSSF Model Signing layout that writing and checking
// share: fixed texts, the order of files, the root digest and the bytes that
// are signed. Internal to proto. docs/signatures.md shows the layout.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/openssl.h"
#include "proto/signature.h"

namespace motet::proto {

inline constexpr char kSignatureFile[] = "model.sig";
inline constexpr char kMediaType[] =
    "application/vnd.dev.sigstore.bundle.v0.3+json";
inline constexpr char kPayloadType[] = "application/vnd.in-toto+json";
inline constexpr char kStatementType[] = "https://in-toto.io/Statement/v1";
inline constexpr char kPredicateType[] =
    "https://model_signing/signature/v1.0";

// The order of files in a statement.
bool PathLess(absl::string_view a, absl::string_view b);
// SHA-256 over the files' raw digests, in the statement's order.
Digest RootDigest(const std::vector<SignedFile>& files);
// DSSE's pre-authentication encoding: the bytes that are signed.
std::string PreAuthentication(absl::string_view payload);
// Name and paths fit, files sorted by PathLess, each once, no model.sig.
absl::Status CheckSignedFiles(const std::string& name,
                              const std::vector<SignedFile>& files);
// Code signing is among the certificate's usages.
absl::Status CheckMaySign(X509* certificate);

}  // namespace motet::proto
