// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <list>
#include <set>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using tcp = boost::asio::ip::tcp;
using boost::system::error_code;

constexpr char kTooLarge[] =
    "{\"error\": {\"message\": \"[body] got more than 4 MiB, want less; send "
    "a smaller request\", \"type\": \"invalid_request_error\", \"param\": "
    "null, \"code\": null}}";
constexpr char kBadHttp[] =
    "{\"error\": {\"message\": \"[http] got a malformed request, want "
    "HTTP/1.1\", \"type\": \"invalid_request_error\", \"param\": null, "
    "\"code\": null}}";
constexpr char kBusy[] =
    "{\"error\": {\"message\": \"[http] got too many connections, want "
    "fewer; try again in a moment\", \"type\": \"rate_limit_error\", "
    "\"param\": null, \"code\": null}}";

// A socket whose every read and write ends within `seconds`: a stuck peer
// must not hold a thread. (Asio's own blocking calls wait without end, even
// where the kernel's SO_RCVTIMEO has run out.)
class Wire {
 public:
  Wire(tcp::socket& socket, int seconds)
      : socket_(socket), milliseconds_(seconds * 1000) {
    error_code ec;
    socket_.non_blocking(true, ec);
    socket_.set_option(tcp::no_delay(true), ec);
  }
  tcp::socket& socket() { return socket_; }

  template <typename Buffers>
  size_t read_some(const Buffers& buffers, error_code& ec) {
    return Some(POLLIN, ec, [&] { return socket_.read_some(buffers, ec); });
  }
  template <typename Buffers>
  size_t write_some(const Buffers& buffers, error_code& ec) {
    return Some(POLLOUT, ec, [&] { return socket_.write_some(buffers, ec); });
  }
  // The forms that throw are part of Beast's idea of a stream; unused.
  template <typename Buffers>
  size_t read_some(const Buffers& buffers) {
    error_code ec;
    return read_some(buffers, ec);
  }
  template <typename Buffers>
  size_t write_some(const Buffers& buffers) {
    error_code ec;
    return write_some(buffers, ec);
  }

  // After an answer to a request that was not read to its end: a close would
  // reset the connection and the peer might lose the answer. So what still
  // comes is read, within bounds, until the peer has closed.
  void Linger() {
    error_code ec;
    socket_.shutdown(tcp::socket::shutdown_send, ec);
    milliseconds_ = std::min(milliseconds_, 1000);
    const absl::Time until = absl::Now() + absl::Seconds(10);
    char waste[16 << 10];
    while (!ec && absl::Now() < until) {
      read_some(boost::asio::buffer(waste), ec);
    }
  }

 private:
  template <typename Once>
  size_t Some(short event, error_code& ec, Once once) {
    for (;;) {
      const size_t n = once();
      if (ec != boost::asio::error::would_block) return n;
      pollfd p{socket_.native_handle(), event, 0};
      const int ready = poll(&p, 1, milliseconds_);
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) {
        ec = boost::asio::error::timed_out;
        return 0;
      }
    }
  }

  tcp::socket& socket_;
  int milliseconds_;
};

class Exchange final : public HttpReply {
 public:
  Exchange(Wire& wire, bool keep_alive, unsigned version)
      : wire_(wire), keep_alive_(keep_alive), version_(version) {}

  void Reply(int status, const std::string& content_type,
             const std::string& body) override {
    http::response<http::string_body> response{
        static_cast<http::status>(status), version_};
    response.set(http::field::server, "motet");
    response.set(http::field::content_type, content_type);
    if (status == 429 || status == 503) {
      response.set(http::field::retry_after, "1");
    }
    response.keep_alive(keep_alive_);
    response.body() = body;
    response.prepare_payload();
    error_code ec;
    http::write(wire_, response, ec);
    if (ec) keep_alive_ = false;
    answered_ = true;
  }
  void StartStream() override {
    answered_ = streaming_ = true;
    // HTTP/1.0 knows no chunks: there the end of the stream is the end of the
    // connection.
    chunked_ = version_ >= 11;
    keep_alive_ = keep_alive_ && chunked_;
    http::response<http::empty_body> response{http::status::ok, version_};
    response.set(http::field::server, "motet");
    response.set(http::field::content_type, "text/event-stream");
    response.set(http::field::cache_control, "no-cache");
    response.keep_alive(keep_alive_);
    response.chunked(chunked_);
    http::response_serializer<http::empty_body> serializer{response};
    error_code ec;
    http::write_header(wire_, serializer, ec);
    broken_ = static_cast<bool>(ec);
  }

  bool Send(const std::string& data) override {
    if (broken_) return false;
    const std::string event = absl::StrCat("data: ", data, "\n\n");
    error_code ec;
    if (chunked_) {
      boost::asio::write(
          wire_, http::make_chunk(boost::asio::buffer(event)), ec);
    } else {
      boost::asio::write(wire_, boost::asio::buffer(event), ec);
    }
    broken_ = static_cast<bool>(ec);
    return !broken_;
  }

  bool Connected() override {
    if (broken_) return false;
    pollfd p{wire_.socket().native_handle(), POLLIN | POLLRDHUP, 0};
    return poll(&p, 1, 0) == 0 || (p.revents & (POLLRDHUP | POLLHUP)) == 0;
  }

  // After the handler; false closes the connection.
  bool Finish() {
    if (!answered_) Reply(500, "application/json", kBadHttp);
    if (streaming_ && chunked_ && !broken_) {
      error_code ec;
      boost::asio::write(wire_, http::make_chunk_last(), ec);
      broken_ = static_cast<bool>(ec);
    }
    return keep_alive_ && !broken_;
  }

 private:
  Wire& wire_;
  bool keep_alive_;
  unsigned version_;
  bool answered_ = false, streaming_ = false, broken_ = false;
  bool chunked_ = false;
};

class Server final : public HttpServer {
 public:
  Server(const HttpOptions& options, HttpHandler handler)
      : options_(options), handler_(std::move(handler)), acceptor_(io_) {}

  absl::Status Listen() {
    const size_t colon = options_.address.rfind(':');
    int port = 0;
    if (colon == std::string::npos ||
        !absl::SimpleAtoi(options_.address.substr(colon + 1), &port) ||
        port < 0 || port > 65535) {
      return proto::Invalid("serve", options_.address, "HOST:PORT");
    }
    error_code ec;
    // An IPv6 address stands in brackets, as its own colons would mislead.
    std::string host = options_.address.substr(0, colon);
    const bool brackets =
        host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (brackets) host = host.substr(1, host.size() - 2);
    const auto ip = boost::asio::ip::make_address(host, ec);
    if (ec || ip.is_v6() != brackets) {
      return proto::Invalid("serve", options_.address,
                            "an IP address and a port",
                            "use 127.0.0.1:PORT or [::1]:PORT");
    }
    const tcp::endpoint endpoint(ip, static_cast<uint16_t>(port));
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(128, ec);
    if (ec) {
      return proto::Error(absl::StatusCode::kUnavailable, "serve",
                          absl::StrCat("\"", ec.message(), "\" for ",
                                       options_.address),
                          "an address to listen on",
                          "stop what listens there, or use --address");
    }
    accepting_ = std::thread([this] { Accept(); });
    return absl::OkStatus();
  }

  ~Server() override {
    Drain(0);
    for (;;) {
      std::thread last;
      {
        absl::MutexLock lock(&mutex_);
        if (threads_.empty()) break;
        last = std::move(threads_.front());
        threads_.pop_front();
      }
      last.join();
    }
  }

  std::string address() const override {
    const auto endpoint = acceptor_.local_endpoint();
    const std::string host = endpoint.address().to_string();
    return endpoint.address().is_v6()
               ? absl::StrCat("[", host, "]:", endpoint.port())
               : absl::StrCat(host, ":", endpoint.port());
  }

  void Drain(int seconds) override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      // Idle connections wait in a read; end them. Busy ones may finish.
      for (tcp::socket* socket : idle_) {
        shutdown(socket->native_handle(), SHUT_RDWR);
      }
    }
    if (accepting_.joinable()) {
      shutdown(acceptor_.native_handle(), SHUT_RDWR);
      accepting_.join();
    }
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(
        absl::Condition(
            +[](Server* s) ABSL_NO_THREAD_SAFETY_ANALYSIS {
              return s->connections_.empty();
            },
            this),
        absl::Seconds(seconds));
    for (tcp::socket* socket : connections_) {
      shutdown(socket->native_handle(), SHUT_RDWR);
    }
  }

 private:
  void Accept() {
    for (;;) {
      error_code ec;
      tcp::socket socket(io_);
      acceptor_.accept(socket, ec);
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      Reap();
      if (ec == boost::asio::error::connection_aborted) continue;
      if (ec) {
        // No descriptor or no memory left, most likely: the peer stays in the
        // queue and the next try would fail at once. A connection that ends
        // gives one back.
        freed_ = false;
        mutex_.AwaitWithTimeout(
            absl::Condition(
                +[](Server* s) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                  return s->stopping_ || s->freed_;
                },
                this),
            absl::Milliseconds(200));
        if (stopping_) return;
        continue;
      }
      // As many again are told that they are too many; the rest is closed.
      const size_t most = static_cast<size_t>(options_.max_connections);
      if (connections_.size() >= 2 * most) continue;
      const bool busy = connections_.size() - refused_ >= most;
      refused_ += busy;
      auto held = std::make_shared<tcp::socket>(std::move(socket));
      connections_.insert(held.get());
      threads_.emplace_back([this, held, busy] { Serve(*held, busy); });
    }
  }

  // Joins threads that have ended.
  void Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (auto it = threads_.begin(); it != threads_.end();) {
      if (ended_.erase(it->get_id()) > 0) {
        it->join();
        it = threads_.erase(it);
      } else {
        ++it;
      }
    }
  }

  void Serve(tcp::socket& socket, bool busy) {
    error_code ec;
    Wire wire(socket, options_.idle_seconds);
    if (busy) {
      Refuse(wire, 429, kBusy);
    } else {
      beast::flat_buffer buffer(static_cast<size_t>(
          proto::kMaxHttpBodyBytes + proto::kMaxHttpHeaderBytes));
      while (ServeOne(wire, buffer)) {
      }
    }
    absl::MutexLock lock(&mutex_);
    connections_.erase(&socket);
    refused_ -= busy;
    socket.shutdown(tcp::socket::shutdown_both, ec);
    socket.close(ec);
    ended_.insert(std::this_thread::get_id());
    freed_ = true;
  }

  static void Refuse(Wire& wire, int status, const char* body) {
    Exchange(wire, false, 11).Reply(status, "application/json", body);
    wire.Linger();
  }

  bool ServeOne(Wire& wire, beast::flat_buffer& buffer) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(proto::kMaxHttpHeaderBytes));
    parser.body_limit(static_cast<uint64_t>(proto::kMaxHttpBodyBytes));
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return false;
      idle_.insert(&wire.socket());
    }
    error_code ec;
    http::read(wire, buffer, parser, ec);
    {
      absl::MutexLock lock(&mutex_);
      idle_.erase(&wire.socket());
    }
    if (ec == http::error::body_limit) {
      Refuse(wire, 413, kTooLarge);
      return false;
    }
    if (ec == http::error::end_of_stream) return false;
    if (ec) {
      // Only what is not HTTP gets an answer; a dead peer does not.
      if (ec.category() ==
          http::make_error_code(http::error::bad_method).category()) {
        Refuse(wire, 400, kBadHttp);
      }
      return false;
    }
    const auto& message = parser.get();
    const auto target = message.target();
    HttpRequest request{
        std::string(message.method_string()),
        std::string(target.substr(0, target.find('?'))), message.body()};
    Exchange reply(wire, message.keep_alive(), message.version());
    handler_(request, reply);
    return reply.Finish();
  }

  const HttpOptions options_;
  const HttpHandler handler_;
  boost::asio::io_context io_;
  tcp::acceptor acceptor_;
  std::thread accepting_;
  absl::Mutex mutex_;
  bool stopping_ = false;
  bool freed_ = false;  // a connection has ended
  std::set<tcp::socket*> connections_, idle_;
  size_t refused_ = 0;  // of the connections, those told 429
  std::list<std::thread> threads_;
  std::set<std::thread::id> ended_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HttpOptions& options, HttpHandler handler) {
  auto server = std::make_unique<Server>(options, std::move(handler));
  MOTET_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace motet::coordinator
