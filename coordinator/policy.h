// SPDX-License-Identifier: Apache-2.0
// The gate between every front and the engine: licence terms, revocations
// and the request decide the expert set. Fail-closed; a request can only
// narrow. The engine takes nothing but an Admission, and only the gate makes
// one.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "compose/assemble/served_model.h"
#include "compose/package/manifest_licence.h"
#include "generation.pb.h"

namespace motet::coordinator {

// An expert that policy keeps out of a query, and why.
struct Withheld {
  std::string id;
  std::string reason;  // "licence forbids purpose advertising"
};

class Admission {
 public:
  math::ExpertMask mask() const { return mask_; }
  // Experts a token that the request asked for; 0 = the model's own.
  int32_t active() const { return active_; }
  const std::vector<std::string>& experts() const { return experts_; }
  const std::string& set_sha256() const { return set_sha256_; }
  const std::vector<Withheld>& withheld() const { return withheld_; }

 private:
  friend class PolicyGate;
  Admission() = default;
  math::ExpertMask mask_ = 1;
  int32_t active_ = 0;
  std::vector<std::string> experts_;  // ids, the decoder's order
  std::string set_sha256_;            // of the manifests' digests, in order;
                                      // empty without manifests
  std::vector<Withheld> withheld_;
};

class PolicyGate {
 public:
  // revoked: manifest SHA-256 (hex) of packages that may answer nothing.
  PolicyGate(const assemble::Served& model,
             std::set<std::string> revoked);

  // NotFound: a name that is no expert here. InvalidArgument: the request
  // excludes the expert that is in every set, or every expert, or asks for
  // more active experts than the model allows.
  // PermissionDenied: it includes by name an expert that policy withholds, or
  // the composition cannot exclude exactly what must be excluded.
  absl::StatusOr<Admission> Admit(const v1::ExpertSelection& selection,
                                  const std::string& purpose,
                                  const std::string& tenant,
                                  absl::Time now) const;

 private:
  const assemble::Served& model_;
  const std::set<std::string> revoked_;
};

using package::WithheldByTerms;

}  // namespace motet::coordinator
