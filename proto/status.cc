// SPDX-License-Identifier: Apache-2.0
#include "proto/status.h"

#include <grpcpp/support/status.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/limits.h"

namespace motet::proto {
namespace {

// What gRPC's own text tells about a connection that failed, most telling
// first: one message can quote several.
struct TransportFailure {
  const char* text;    // part of gRPC's message
  absl::StatusCode code;
  const char* reason;  // ours, for people
  const char* hint;
};
constexpr TransportFailure kTransportFailures[] = {
    {"Custom verification check failed", absl::StatusCode::kPermissionDenied,
     "a server with the wrong name",
     "check the address: another program of the federation listens there"},
    {"certificate verify failed", absl::StatusCode::kUnavailable,
     "a server whose certificate is not of our authority",
     "check that both ends use the same ca.pem and valid certificates"},
    {"CERTIFICATE_VERIFY_FAILED", absl::StatusCode::kUnavailable,
     "a server whose certificate is not of our authority",
     "check that both ends use the same ca.pem and valid certificates"},
    {"WRONG_VERSION_NUMBER", absl::StatusCode::kUnavailable,
     "an answer that is not TLS", "check the port"},
    {"wrong version number", absl::StatusCode::kUnavailable,
     "an answer that is not TLS", "check the port"},
    {"Connection refused", absl::StatusCode::kUnavailable,
     "no listener at the address", "start the server or correct the address"},
    {"DNS resolution failed", absl::StatusCode::kUnavailable,
     "a host name that does not resolve", "correct the address"},
    {"empty address list", absl::StatusCode::kUnavailable,
     "a host name without an address", "correct the address"},
    {"No route to host", absl::StatusCode::kUnavailable,
     "no way to the address", "check the network or correct the address"},
    {"Network is unreachable", absl::StatusCode::kUnavailable,
     "no way to the address", "check the network or correct the address"},
    // A server that refuses our certificate says no more than this: under
    // TLS 1.3 it does so after the client thinks the handshake is over.
    {"alert", absl::StatusCode::kUnavailable,
     "a server that refused our certificate",
     "check that our certificate is of the server's authority, has not "
     "expired and was not left out"},
    {"Socket closed", absl::StatusCode::kUnavailable, "a closed connection",
     "either the server stopped, or it refused our certificate: check that "
     "it runs and that our certificate is of its authority, has not expired "
     "and was not left out"},
    {"Connection reset", absl::StatusCode::kUnavailable, "a closed connection",
     "either the server stopped, or it refused our certificate: check that "
     "it runs and that our certificate is of its authority, has not expired "
     "and was not left out"},
    {"Broken pipe", absl::StatusCode::kUnavailable, "a closed connection",
     "either the server stopped, or it refused our certificate: check that "
     "it runs and that our certificate is of its authority, has not expired "
     "and was not left out"},
    {"andshake", absl::StatusCode::kUnavailable, "no TLS connection",
     "check that the server speaks TLS with client certificates and that our "
     "certificate is of its authority"},
    {"keepalive watchdog timeout", absl::StatusCode::kUnavailable,
     "a connection that went silent", "check the network and try again"},
    {"Too many pings", absl::StatusCode::kUnavailable,
     "a connection closed for its keep-alives", "try again"},
    {"Stream removed", absl::StatusCode::kUnavailable, "a closed connection",
     "try again"},
    {"Endpoint closing", absl::StatusCode::kUnavailable,
     "a closed connection", "try again"},
    {"Cancelling all calls", absl::StatusCode::kUnavailable,
     "a server that is stopping", "try again when it runs"},
    {"failed to connect", absl::StatusCode::kUnavailable, "no connection",
     "check that the server runs and the address is right"},
};

constexpr int kLastCode = static_cast<int>(absl::StatusCode::kUnauthenticated);

bool MayBeTransport(grpc::StatusCode code, const std::string& text) {
  // Our own services' messages open with "[where]".
  if (absl::StartsWith(text, "[")) return false;
  return code == grpc::StatusCode::UNAVAILABLE ||
         code == grpc::StatusCode::UNKNOWN ||
         code == grpc::StatusCode::INTERNAL;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string text(status.message());
  // Longer texts overflow HTTP/2's header limits and arrive as another error.
  if (static_cast<int64_t>(text.size()) > kMaxStatusMessageBytes) {
    text.resize(static_cast<size_t>(kMaxStatusMessageBytes));
    absl::StrAppend(&text, " ... (cut)");
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), text);
}

absl::Status FromGrpc(const grpc::Status& status, absl::string_view context) {
  if (status.ok()) return absl::OkStatus();
  const std::string& text = status.error_message();
  const grpc::StatusCode code = status.error_code();
  if (MayBeTransport(code, text)) {
    for (const TransportFailure& failure : kTransportFailures) {
      if (!absl::StrContains(text, failure.text)) continue;
      return Error(failure.code, context,
                   absl::StrCat(failure.reason, " (\"", text, "\")"),
                   "an answer over mTLS", failure.hint);
    }
  }
  if (code == grpc::StatusCode::DEADLINE_EXCEEDED &&
      !absl::StartsWith(text, "[")) {
    return Error(absl::StatusCode::kDeadlineExceeded, context,
                 "no answer in time", "one before the deadline",
                 "check that the server is not overloaded and try again");
  }
  if (code == grpc::StatusCode::UNIMPLEMENTED &&
      !absl::StartsWith(text, "[")) {
    return Error(absl::StatusCode::kUnimplemented, context,
                 "a server that does not offer this call",
                 "one that does", "check the address and both versions");
  }
  const int number = static_cast<int>(code);
  const auto ours = number > 0 && number <= kLastCode
                        ? static_cast<absl::StatusCode>(number)
                        : absl::StatusCode::kUnknown;
  return absl::Status(ours, text.empty() ? absl::StrCat("[", context,
                                                        "] got an error "
                                                        "without a text")
                                         : text);
}

}  // namespace motet::proto
