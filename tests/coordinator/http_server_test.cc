// SPDX-License-Identifier: Apache-2.0
// The HTTP server over real loopback sockets, with a client of bare bytes.
#include "coordinator/http/server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class Client {
 public:
  explicit Client(const HttpServer& server) : Client() { Connect(server); }
  // Has its descriptor, and no connection yet.
  Client() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {}
  void Connect(const HttpServer& server) {
    const std::vector<std::string> parts =
        absl::StrSplit(server.address(), ':');
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(parts.back(), &port));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ =
        connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
    const timeval tv{120, 0};  // a test that hangs fails instead
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
  }
  ~Client() { Close(); }
  bool connected() const { return connected_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // False when the server has stopped listening to us.
  bool Send(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = send(fd_, bytes.data() + at, bytes.size() - at,
                             MSG_NOSIGNAL);
      if (n <= 0) return false;
      at += n;
    }
    return true;
  }
  // Up to and with `mark`; what came when the connection ended before.
  std::string Until(const std::string& mark) {
    for (;;) {
      const size_t at = held_.find(mark);
      if (at != std::string::npos) {
        const std::string out = held_.substr(0, at + mark.size());
        held_.erase(0, out.size());
        return out;
      }
      char buffer[4096];
      const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) {
        ended_ = n == 0;
        return std::exchange(held_, "");
      }
      held_.append(buffer, n);
    }
  }
  // The rest; ended() tells a clean end from a reset.
  std::string Rest() { return Until("\x01never\x01"); }
  bool ended() const { return ended_; }
  // Head and body of one response with a Content-Length.
  std::pair<std::string, std::string> Response() {
    const std::string head = Until("\r\n\r\n");
    const size_t at = head.find("Content-Length: ");
    size_t length = 0;
    if (at == std::string::npos ||
        !absl::SimpleAtoi(
            head.substr(at + 16, head.find('\r', at) - at - 16), &length)) {
      return {head, ""};
    }
    while (held_.size() < length) {
      char buffer[4096];
      const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      held_.append(buffer, n);
    }
    std::string body = held_.substr(0, length);
    held_.erase(0, length);
    return {head, body};
  }

 private:
  int fd_ = -1;
  bool connected_ = false, ended_ = false;
  std::string held_;
};

std::unique_ptr<HttpServer> Start(HttpHandler handler,
                                  HttpOptions options = {}) {
  options.address = "127.0.0.1:0";
  auto server = HttpServer::Start(options, std::move(handler));
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}
void Echo(const HttpRequest& request, HttpReply& reply) {
  reply.Reply(200, "text/plain",
              absl::StrCat(request.method, " ", request.path, " ",
                           request.body));
}
std::string Post(const std::string& path, const std::string& body) {
  return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                      body.size(), "\r\n\r\n", body);
}
constexpr char kGet[] = "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n";

TEST(HttpServerTest, KeepsTheConnectionForMoreRequests) {
  const auto server = Start(Echo);
  Client client(*server);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send(Post("/path", absl::StrCat("body", i))));
    const auto [head, body] = client.Response();
    EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200"),
                            HasSubstr("Content-Type: text/plain")));
    EXPECT_EQ(body, absl::StrCat("POST /path body", i));
  }
  // Two at once are answered in order; the query is no part of the path.
  ASSERT_TRUE(client.Send(kGet + Post("/x", "y")));
  EXPECT_EQ(client.Response().second, "GET /a ");
  EXPECT_EQ(client.Response().second, "POST /x y");
}

TEST(HttpServerTest, ClosesWhenAsked) {
  const auto server = Start(Echo);
  Client client(*server);
  ASSERT_TRUE(client.Send(
      "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  EXPECT_THAT(client.Rest(), HasSubstr("GET / "));
  EXPECT_TRUE(client.ended());
}

TEST(HttpServerTest, TooLargeBodyIs413) {
  const auto server = Start(Echo);
  Client client(*server);
  // The whole body is sent before the answer is read, as many clients do.
  client.Send(Post("/", std::string(proto::kMaxHttpBodyBytes + 1, 'x')));
  EXPECT_THAT(client.Rest(), AllOf(StartsWith("HTTP/1.1 413"),
                                   HasSubstr("invalid_request_error")));
  Client largest(*server);
  ASSERT_TRUE(
      largest.Send(Post("/", std::string(proto::kMaxHttpBodyBytes, 'x'))));
  EXPECT_EQ(largest.Response().second.size(),
            proto::kMaxHttpBodyBytes + std::string("POST / ").size());
}

TEST(HttpServerTest, MalformedRequestIs400) {
  const auto server = Start(Echo);
  for (const std::string& bytes :
       {std::string("nonsense\r\n\r\n"),
        std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n"),
        "GET / HTTP/1.1\r\nX: " +
            std::string(proto::kMaxHttpHeaderBytes, 'x') + "\r\n\r\n"}) {
    Client client(*server);
    client.Send(bytes);
    EXPECT_THAT(client.Rest(), StartsWith("HTTP/1.1 400"))
        << bytes.substr(0, 60);
  }
}

TEST(HttpServerTest, TooManyConnectionsAre429) {
  HttpOptions options;
  options.max_connections = 1;
  const auto server = Start(Echo, options);
  auto first = std::make_unique<Client>(*server);
  ASSERT_TRUE(first->Send(kGet));
  EXPECT_EQ(first->Response().second, "GET /a ");
  {
    Client second(*server);
    second.Send(kGet);
    EXPECT_THAT(second.Rest(),
                AllOf(StartsWith("HTTP/1.1 429"), HasSubstr("Retry-After"),
                      HasSubstr("rate_limit_error")));
  }
  ASSERT_TRUE(first->Send(kGet));
  EXPECT_EQ(first->Response().second, "GET /a ");
  first.reset();
  // The place is free again, if not at once.
  for (std::string answer; answer.find("200") == std::string::npos;) {
    Client next(*server);
    next.Send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    answer = next.Until("\r\n");
    ASSERT_THAT(answer, testing::AnyOf(StartsWith("HTTP/1.1 429"),
                                       StartsWith("HTTP/1.1 200"), ""));
  }
}

TEST(HttpServerTest, SilentPeersAreLetGo) {
  HttpOptions options;
  options.idle_seconds = 1;
  const auto server = Start(Echo, options);
  Client silent(*server), half(*server);
  ASSERT_TRUE(half.Send("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhal"));
  EXPECT_EQ(silent.Rest(), "");
  EXPECT_TRUE(silent.ended());
  half.Rest();
  EXPECT_TRUE(half.ended());
}

TEST(HttpServerTest, StreamsChunksAsTheyAreMade) {
  absl::Notification seen;
  const auto server = Start([&](const HttpRequest&, HttpReply& reply) {
    reply.StartStream();
    EXPECT_TRUE(reply.Send("one"));
    seen.WaitForNotification();  // the client has it before there is more
    EXPECT_TRUE(reply.Send("two"));
  });
  Client client(*server);
  ASSERT_TRUE(client.Send(kGet));
  EXPECT_THAT(client.Until("\r\n\r\n"),
              AllOf(HasSubstr("Content-Type: text/event-stream"),
                    HasSubstr("Transfer-Encoding: chunked")));
  EXPECT_EQ(client.Until("\n\n\r\n"), "b\r\ndata: one\n\n\r\n");
  seen.Notify();
  EXPECT_EQ(client.Until("0\r\n\r\n"), "b\r\ndata: two\n\n\r\n0\r\n\r\n");
  // The connection stays good.
  ASSERT_TRUE(client.Send(kGet));
  EXPECT_THAT(client.Until("0\r\n\r\n"), HasSubstr("data: two"));
}

TEST(HttpServerTest, HandlerSeesThatTheClientHungUp) {
  absl::Notification started, gone;
  const auto server = Start([&](const HttpRequest&, HttpReply& reply) {
    EXPECT_TRUE(reply.Connected());
    started.Notify();
    while (reply.Connected()) std::this_thread::yield();
    reply.StartStream();
    // A write into a closed connection fails sooner or later.
    while (reply.Send(std::string(4096, 'x'))) {
    }
    EXPECT_FALSE(reply.Send("x"));
    EXPECT_FALSE(reply.Connected());
    gone.Notify();
  });
  Client client(*server);
  ASSERT_TRUE(client.Send(kGet));
  started.WaitForNotification();
  client.Close();
  gone.WaitForNotification();
}

TEST(HttpServerTest, MoreBytesFromTheClientAreNoHangUp) {
  absl::Notification started, sent;
  const auto server = Start([&](const HttpRequest& request, HttpReply& reply) {
    if (request.path == "/slow") {
      started.Notify();
      sent.WaitForNotification();
      EXPECT_TRUE(reply.Connected());
    }
    Echo(request, reply);
  });
  Client client(*server);
  ASSERT_TRUE(client.Send(Post("/slow", "")));
  started.WaitForNotification();
  ASSERT_TRUE(client.Send(kGet));
  sent.Notify();
  EXPECT_EQ(client.Response().second, "POST /slow ");
  EXPECT_EQ(client.Response().second, "GET /a ");
}

TEST(HttpServerTest, HandlerThatSaysNothingIsA500) {
  const auto server = Start([](const HttpRequest&, HttpReply&) {});
  Client client(*server);
  ASSERT_TRUE(client.Send(kGet));
  EXPECT_THAT(client.Response().first, StartsWith("HTTP/1.1 500"));
}

TEST(HttpServerTest, DrainEndsIdleOnesAndLetsBusyOnesFinish) {
  absl::Notification started, go_on;
  const auto server = Start([&](const HttpRequest& request, HttpReply& reply) {
    if (request.path == "/slow") {
      started.Notify();
      go_on.WaitForNotification();
    }
    Echo(request, reply);
  });
  Client idle(*server), busy(*server);
  ASSERT_TRUE(idle.Send(kGet));
  EXPECT_EQ(idle.Response().second, "GET /a ");
  ASSERT_TRUE(busy.Send(Post("/slow", "x")));
  started.WaitForNotification();
  std::thread drain([&] { server->Drain(120); });
  EXPECT_EQ(idle.Rest(), "");  // ended by the drain
  go_on.Notify();
  EXPECT_EQ(busy.Response().second, "POST /slow x");
  EXPECT_EQ(busy.Rest(), "");  // and then the connection
  drain.join();
  Client late(*server);
  late.Send(kGet);
  EXPECT_EQ(late.Rest(), "");
}

// A client of HTTP/1.0 knows no chunks: plain bytes until the end.
TEST(HttpServerTest, Http10StreamsWithoutChunks) {
  const auto server = Start([](const HttpRequest&, HttpReply& reply) {
    reply.StartStream();
    reply.Send("one");
    reply.Send("two");
  });
  Client client(*server);
  ASSERT_TRUE(client.Send("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  const std::string all = client.Rest();
  EXPECT_TRUE(client.ended());
  EXPECT_THAT(all, StartsWith("HTTP/1.0 200"));
  EXPECT_THAT(all, testing::Not(HasSubstr("chunked")));
  EXPECT_THAT(all, testing::EndsWith("\r\n\r\ndata: one\n\ndata: two\n\n"));
}

// Without a descriptor for it a connection waits; it is served once there is
// one.
TEST(HttpServerTest, OutOfDescriptorsIsNoEnd) {
  const auto server = Start([](const HttpRequest&, HttpReply& reply) {
    reply.Reply(200, "text/plain", "late");
  });
  Client first, second;
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  rlimit none = old;
  none.rlim_cur = 3;  // all of these are open
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  // An accept() that waits may have its descriptor; the next one has none.
  for (Client* client : {&first, &second}) {
    client->Connect(*server);
    EXPECT_TRUE(client->Send("GET /x HTTP/1.1\r\n\r\n"));
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  EXPECT_EQ(first.Response().second, "late");
  EXPECT_EQ(second.Response().second, "late");
}

TEST(HttpServerTest, Ipv6AddressStandsInBrackets) {
  HttpOptions options;
  options.address = "[::1]:0";
  const auto server =
      HttpServer::Start(options, [](const HttpRequest&, HttpReply&) {});
  if (absl::IsUnavailable(server.status())) {
    GTEST_SKIP() << "no IPv6 here: " << server.status();
  }
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT((*server)->address(), StartsWith("[::1]:"));
}

TEST(HttpServerTest, AddressesThatCannotBe) {
  for (const char* address : {"", "8080", "127.0.0.1:", "127.0.0.1:70000",
                              "example.org:80", "127.0.0.1:http",
                              "::1:80", "[127.0.0.1]:80", "[::1]"}) {
    HttpOptions options;
    options.address = address;
    EXPECT_EQ(HttpServer::Start(options, Echo).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
  const auto server = Start(Echo);
  HttpOptions taken;
  taken.address = server->address();
  EXPECT_EQ(HttpServer::Start(taken, Echo).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace motet::coordinator
