// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/http.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/harness/process.h"

namespace motet::testing {
namespace {

std::string Dechunk(const std::string& text) {
  std::string body;
  size_t at = 0;
  while (at < text.size()) {
    const size_t line = text.find("\r\n", at);
    if (line == std::string::npos) break;
    const size_t bytes = std::stoul(text.substr(at, line - at), nullptr, 16);
    if (bytes == 0) return body;
    body += text.substr(line + 2, bytes);
    at = line + 2 + bytes + 2;
  }
  ADD_FAILURE() << "got a reply that ends without its last chunk: " << text;
  return body;
}

HttpReply Exchange(const std::string& address, const std::string& request) {
  const size_t colon = address.find(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(std::stoi(address.substr(colon + 1)));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{kPatienceSeconds, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  std::string text;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0 ||
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(request.size())) {
    ADD_FAILURE() << "no connection to " << address;
  } else {
    char part[4096];
    ssize_t got;
    while ((got = recv(fd, part, sizeof part, 0)) > 0) text.append(part, got);
    EXPECT_EQ(got, 0) << "no end of the reply from " << address;
  }
  close(fd);
  HttpReply reply;
  const size_t end = text.find("\r\n\r\n");
  if (text.rfind("HTTP/1.1 ", 0) != 0 || end == std::string::npos) {
    ADD_FAILURE() << "got no HTTP reply: " << text;
    return reply;
  }
  reply.status = std::stoi(text.substr(9, 3));
  reply.head = text.substr(0, end);
  reply.body = text.substr(end + 4);
  if (reply.head.find("chunked") != std::string::npos) {
    reply.body = Dechunk(reply.body);
  }
  return reply;
}

}  // namespace

HttpReply HttpPost(const std::string& address, const std::string& path,
                   const std::string& body) {
  return Exchange(address, "POST " + path + " HTTP/1.1\r\nHost: " + address +
                               "\r\nContent-Type: application/json\r\n"
                               "Connection: close\r\nContent-Length: " +
                               std::to_string(body.size()) + "\r\n\r\n" +
                               body);
}

HttpReply HttpGet(const std::string& address, const std::string& path) {
  return Exchange(address, "GET " + path + " HTTP/1.1\r\nHost: " + address +
                               "\r\nConnection: close\r\n\r\n");
}

}  // namespace motet::testing
