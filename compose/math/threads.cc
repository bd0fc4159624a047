// SPDX-License-Identifier: Apache-2.0
#include "compose/math/threads.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace motet::math {
namespace {

constexpr char kPolicy[] = "OMP_WAIT_POLICY", kPassive[] = "passive";
constexpr char kSpin[] = "GOMP_SPINCOUNT";
// Loops of a token follow one another within microseconds: waking a thread
// for each would cost more than the loop.
constexpr char kSpins[] = "5000";

bool asked = false;  // by OpenMP, which is the only one to ask for kSpin

const char* Find(const char* name) {
  const size_t length = strlen(name);
  for (char** entry = environ; entry != nullptr && *entry != nullptr;
       ++entry) {
    if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') {
      return *entry + length + 1;
    }
  }
  return nullptr;
}

bool Decided() { return Find(kPolicy) != nullptr || Find(kSpin) != nullptr; }

}  // namespace

// Whoever links this file in gets this one in place of the C library's, and
// so does OpenMP.
const char* Environment(const char* name) {
  const bool spin = strcmp(name, kSpin) == 0;
  if (spin) asked = true;
  if ((spin || strcmp(name, kPolicy) == 0) && !Decided()) {
    return spin ? kSpins : kPassive;
  }
  return Find(name);
}

void SleepWhileWaiting(char** argv) {
  if (asked || Decided()) return;
  setenv(kPolicy, kPassive, 1);
  setenv(kSpin, kSpins, 1);
  // Where this fails (no /proc), the program runs on, spinning.
  execv("/proc/self/exe", argv);
}

}  // namespace motet::math

extern "C" char* getenv(const char* name) noexcept {
  return const_cast<char*>(motet::math::Environment(name));
}
