// SPDX-License-Identifier: Apache-2.0
// Who is who: P-256 keys, certificate requests, the federation's authority,
// and SPIFFE names. Private keys are written 0600 and never leave the folder
// they were made in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::proto {

// spiffe://FEDERATION/owner/ORG/node/NAME, /coordinator/NAME, /registry/NAME
struct SpiffeId {
  std::string federation;
  std::string role;   // "node", "coordinator", "registry"
  std::string owner;  // for nodes: DNS-like name; else empty
  std::string name;
  std::string ToString() const;
};
absl::StatusOr<SpiffeId> ParseSpiffeId(absl::string_view uri);
// [a-z0-9]([a-z0-9.-]*[a-z0-9])?, at most 63 characters.
absl::Status CheckName(absl::string_view where, absl::string_view name);

struct KeyPair {
  std::string private_pem;
  std::string public_pem;
};
absl::StatusOr<KeyPair> MakeKey();  // ECDSA P-256

// A PKCS#10 request with the id as URI SAN, signed by the key.
absl::StatusOr<std::string> MakeRequest(const std::string& private_pem,
                                        const SpiffeId& id);
struct RequestInfo {
  SpiffeId id;
  std::string fingerprint;  // "SHA256:" + hex of the public key's DER
};
// Checks the request's own signature and that it holds exactly one SPIFFE id.
absl::StatusOr<RequestInfo> InspectRequest(const std::string& request_pem);

// A self-signed authority for one federation, 10 years.
struct Authority {
  std::string certificate_pem;
  std::string private_pem;
};
absl::StatusOr<Authority> MakeAuthority(const std::string& federation);
// The federation whose authority this certificate is.
absl::StatusOr<std::string> FederationOf(const std::string& authority_pem);
struct IssueOptions {
  int days = 365;
  // Host names and addresses of a server; "localhost" and 127.0.0.1 are
  // always among them for coordinator and registry.
  std::vector<std::string> hosts;
};
// Issues a certificate for the request's id, after checking that its
// fingerprint equals expected_fingerprint and its federation the authority's
// (else PermissionDenied). Usages follow from the role: nodes and coordinators
// may sign packages, coordinators and registries may be servers.
absl::StatusOr<std::string> Issue(const Authority& authority,
                                  const std::string& request_pem,
                                  absl::string_view expected_fingerprint,
                                  const IssueOptions& options = {});

struct CertificateInfo {
  SpiffeId id;
  std::string fingerprint;  // as in RequestInfo
  std::string serial;
  int64_t not_before = 0;   // Unix seconds
  int64_t not_after = 0;
  std::string public_pem;
};
absl::StatusOr<CertificateInfo> InspectCertificate(const std::string& pem);
// PermissionDenied when cert does not chain to the authority or is expired
// at `when` (Unix seconds; 0 = now).
absl::Status VerifyCertificate(const std::string& certificate_pem,
                               const std::string& authority_pem,
                               int64_t when = 0);

}  // namespace motet::proto
