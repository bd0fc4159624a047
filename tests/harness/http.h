// SPDX-License-Identifier: Apache-2.0
// The plainest HTTP client: one request over one raw socket, no library, so
// that what the server writes is what the test sees.
#pragma once

#include <string>

namespace motet::testing {

struct HttpReply {
  int status = 0;
  std::string head;
  std::string body;  // chunks put together
};
// ADDRESS: HOST:PORT of IPv4.
HttpReply HttpPost(const std::string& address, const std::string& path,
                   const std::string& body);
HttpReply HttpGet(const std::string& address, const std::string& path);

}  // namespace motet::testing
