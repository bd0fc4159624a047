// SPDX-License-Identifier: Apache-2.0
// Named points at which a test may let the process die as by `kill -9`, so
// that "in the middle of a publish" is a place and not a race. Without the
// variable MOTET_FAULT in the environment nothing here does anything.
#pragma once

#include "absl/strings/string_view.h"

namespace motet::registry {

// MOTET_FAULT=POINT or POINT:N. When the process reaches POINT for the N-th
// time (default: the first) it sends itself SIGKILL.
void FaultPoint(absl::string_view point);

// All points, in the order in which a publish passes them.
inline constexpr char kFaultAfterChunk[] = "publish_after_chunk";
inline constexpr char kFaultBeforeCommit[] = "publish_before_commit";
inline constexpr char kFaultAfterCommit[] = "publish_after_commit";

// The value of MOTET_FAULT, empty when unset; a program warns when it is set.
absl::string_view FaultVariable();

}  // namespace motet::registry
