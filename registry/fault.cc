// SPDX-License-Identifier: Apache-2.0
#include "registry/fault.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace motet::registry {
namespace {

struct Fault {
  std::string point;
  int count = 1;
};

// The environment is read once: it cannot change under a running process.
const Fault& TheFault() {
  static const Fault* const fault = [] {
    auto* made = new Fault;
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(std::string(FaultVariable()), absl::MaxSplits(':', 1));
    made->point = parts.first;
    if (!absl::SimpleAtoi(parts.second, &made->count)) made->count = 1;
    return made;
  }();
  return *fault;
}

}  // namespace

absl::string_view FaultVariable() {
  const char* value = getenv("MOTET_FAULT");
  return value == nullptr ? absl::string_view() : absl::string_view(value);
}

void FaultPoint(absl::string_view point) {
  const Fault& fault = TheFault();
  if (fault.point.empty() || point != fault.point) return;
  static std::atomic<int> passed{0};
  if (++passed == fault.count) kill(getpid(), SIGKILL);
}

}  // namespace motet::registry
