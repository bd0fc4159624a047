// SPDX-License-Identifier: Apache-2.0
// Names: SPIFFE ids as text, and what a name may look like.
#include "proto/identity.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/error.h"

namespace motet::proto {
namespace {

constexpr size_t kMaxNameLength = 63;
constexpr size_t kMaxUriLength = 2048;

bool IsNameEnd(char c) {
  return absl::ascii_islower(c) || absl::ascii_isdigit(c);
}

}  // namespace

absl::Status CheckName(absl::string_view where, absl::string_view name) {
  bool ok = !name.empty() && name.size() <= kMaxNameLength &&
            IsNameEnd(name.front()) && IsNameEnd(name.back());
  for (const char c : name) ok = ok && (IsNameEnd(c) || c == '.' || c == '-');
  if (ok) return absl::OkStatus();
  return Invalid(
      where, absl::StrCat("the name \"", name.substr(0, 80), "\""),
      "1 to 63 of a-z, 0-9, '.' and '-', with a letter or digit at both ends",
      "choose another name");
}

std::string SpiffeId::ToString() const {
  if (role == "node") {
    return absl::StrCat("spiffe://", federation, "/owner/", owner, "/node/",
                        name);
  }
  return absl::StrCat("spiffe://", federation, "/", role, "/", name);
}

absl::StatusOr<SpiffeId> ParseSpiffeId(absl::string_view uri) {
  const auto refuse = [&] {
    return Invalid("identity", absl::StrCat("\"", uri.substr(0, 200), "\""),
                   "spiffe://FEDERATION/owner/OWNER/node/NAME, "
                   "spiffe://FEDERATION/coordinator/NAME or "
                   "spiffe://FEDERATION/registry/NAME");
  };
  absl::string_view rest = uri;
  if (uri.size() > kMaxUriLength || !absl::ConsumePrefix(&rest, "spiffe://")) {
    return refuse();
  }
  const std::vector<std::string> parts = absl::StrSplit(rest, '/');
  SpiffeId id;
  id.federation = parts[0];
  if (parts.size() == 5 && parts[1] == "owner" && parts[3] == "node") {
    id.role = "node";
    id.owner = parts[2];
    id.name = parts[4];
    MOTET_RETURN_IF_ERROR(CheckName("identity", id.owner));
  } else if (parts.size() == 3 &&
             (parts[1] == "coordinator" || parts[1] == "registry")) {
    id.role = parts[1];
    id.name = parts[2];
  } else {
    return refuse();
  }
  MOTET_RETURN_IF_ERROR(CheckName("identity", id.federation));
  MOTET_RETURN_IF_ERROR(CheckName("identity", id.name));
  return id;
}

}  // namespace motet::proto
