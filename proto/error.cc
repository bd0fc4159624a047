// SPDX-License-Identifier: Apache-2.0
#include "proto/error.h"

#include "absl/strings/str_cat.h"

namespace motet::proto {

absl::Status Error(absl::StatusCode code, absl::string_view where,
                   absl::string_view got, absl::string_view want,
                   absl::string_view hint) {
  std::string text = absl::StrCat("[", where, "] got ", got, ", want ", want);
  if (!hint.empty()) absl::StrAppend(&text, "; ", hint);
  return absl::Status(code, text);
}

absl::Status Invalid(absl::string_view where, absl::string_view got,
                     absl::string_view want, absl::string_view hint) {
  return Error(absl::StatusCode::kInvalidArgument, where, got, want, hint);
}

}  // namespace motet::proto
