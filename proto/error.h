// SPDX-License-Identifier: Apache-2.0
// Errors that the world can cause, in one form: `[where] got X, want Y; do Z`.
// Needs abseil alone, so that the engine-only build has it too.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::proto {

// Builds "[where] got GOT, want WANT; DO" with the given code. `hint` may be
// empty, then no "; DO" follows.
absl::Status Error(absl::StatusCode code, absl::string_view where,
                   absl::string_view got, absl::string_view want,
                   absl::string_view hint = "");
// The same with code InvalidArgument, the most common one.
absl::Status Invalid(absl::string_view where, absl::string_view got,
                     absl::string_view want, absl::string_view hint = "");

}  // namespace motet::proto

// Returns early with the status of an expression that is not OK.
#define MOTET_RETURN_IF_ERROR(expr)                \
  do {                                             \
    if (absl::Status motet_s_ = (expr); !motet_s_.ok()) return motet_s_; \
  } while (false)
#define MOTET_CONCAT_(a, b) a##b
#define MOTET_CONCAT(a, b) MOTET_CONCAT_(a, b)
// MOTET_ASSIGN_OR_RETURN(auto x, F()): x is the value of F() or we return.
#define MOTET_ASSIGN_OR_RETURN(lhs, expr) \
  MOTET_ASSIGN_OR_RETURN_(MOTET_CONCAT(motet_v_, __LINE__), lhs, expr)
#define MOTET_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                            \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)
