// SPDX-License-Identifier: Apache-2.0
// absl::Status to and from gRPC.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/error.h"

namespace grpc {
class Status;
}

namespace motet::proto {

// gRPC's canonical codes are absl's: the mapping loses nothing.
grpc::Status ToGrpc(const absl::Status& status);
// `context` says what was asked of whom ("registry 127.0.0.1:7001"): a
// transport failure ("Socket closed", "connection refused") gets it and what
// to do about it put in front.
absl::Status FromGrpc(const grpc::Status& status, absl::string_view context);

}  // namespace motet::proto
