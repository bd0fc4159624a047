// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 by Boost.Beast: bounded connections, headers, bodies and waits. A
// thread a connection; what is asked is answered by a Handler.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::coordinator {

struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string body;
};

// How a handler answers: once with Reply, or StartStream, Send…, and an end
// when the handler returns.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void Reply(int status, const std::string& content_type,
                     const std::string& body) = 0;
  // Server-sent events. Send is false once the client has gone.
  virtual void StartStream() = 0;
  virtual bool Send(const std::string& data) = 0;
  // False once the client has hung up; cheap.
  virtual bool Connected() = 0;
};
using HttpHandler = std::function<void(const HttpRequest&, HttpReply&)>;

struct HttpOptions {
  std::string address = "127.0.0.1:8080";
  int max_connections = 64;
  int idle_seconds = 60;  // between requests, and for one read or write
};

class HttpServer {
 public:
  // Listens; serves until destroyed.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const HttpOptions& options, HttpHandler handler);
  virtual ~HttpServer() = default;
  virtual std::string address() const = 0;  // HOST:PORT as bound
  // Takes no new connection and waits for running requests, at most
  // `seconds`.
  virtual void Drain(int seconds) = 0;
};

}  // namespace motet::coordinator
