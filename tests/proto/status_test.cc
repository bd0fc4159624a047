// SPDX-License-Identifier: Apache-2.0
#include "proto/status.h"

#include <gmock/gmock.h>
#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "proto/limits.h"

namespace motet::proto {
namespace {

using testing::HasSubstr;

TEST(StatusTest, EveryCodeGoesBothWays) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code),
                              "[store] got X, want Y");
    const grpc::Status sent = ToGrpc(status);
    EXPECT_EQ(static_cast<int>(sent.error_code()), code);
    EXPECT_EQ(sent.error_message(), status.message());
    EXPECT_EQ(FromGrpc(sent, "registry"), status) << code;
  }
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK, "registry").ok());
}

TEST(StatusTest, CodesHaveTheSameNames) {
  EXPECT_EQ(ToGrpc(absl::NotFoundError("x")).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ToGrpc(absl::UnauthenticatedError("x")).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ToGrpc(absl::DataLossError("x")).error_code(),
            grpc::StatusCode::DATA_LOSS);
}

TEST(StatusTest, UnknownCodesStayErrors) {
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::DO_NOT_USE, "odd"), "r");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(status.message(), "odd");
}

TEST(StatusTest, TransportFailuresSayWhatToDo) {
  const struct {
    const char* text;
    absl::StatusCode code;
    const char* want;
  } cases[] = {
      {"Socket closed", absl::StatusCode::kUnavailable,
       "refused our certificate"},
      {"failed to connect to all addresses; last error: UNKNOWN: "
       "ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused",
       absl::StatusCode::kUnavailable, "start the server"},
      {"Ssl handshake failed: SSL_ERROR_SSL: certificate verify failed",
       absl::StatusCode::kUnavailable, "same ca.pem"},
      {"Custom verification check failed with error: UNAUTHENTICATED: x",
       absl::StatusCode::kPermissionDenied, "check the address"},
  };
  for (const auto& c : cases) {
    const absl::Status status =
        FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, c.text),
                 "registry 127.0.0.1:7001");
    EXPECT_EQ(status.code(), c.code) << c.text;
    const std::string text(status.message());
    EXPECT_THAT(text, HasSubstr("[registry 127.0.0.1:7001] got "));
    EXPECT_THAT(text, HasSubstr(c.text));
    EXPECT_THAT(text, HasSubstr(c.want));
  }
}

TEST(StatusTest, AServersOwnUnavailableIsNotTakenForTheTransports) {
  const absl::Status status = absl::UnavailableError(
      "[node] got \"Socket closed\", want a registry; wait");
  EXPECT_EQ(FromGrpc(ToGrpc(status), "coordinator"), status);
}

TEST(StatusTest, LongMessagesAreCut) {
  const grpc::Status status =
      ToGrpc(absl::InvalidArgumentError(std::string(1 << 20, 'x')));
  EXPECT_LE(static_cast<int64_t>(status.error_message().size()),
            kMaxStatusMessageBytes + 16);
  EXPECT_THAT(status.error_message(), HasSubstr("(cut)"));
}

TEST(StatusTest, DeadlineNamesTheServer) {
  const absl::Status status = FromGrpc(
      grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "Deadline Exceeded"),
      "registry r1");
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("[registry r1]"));
}

}  // namespace
}  // namespace motet::proto
