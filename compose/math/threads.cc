// SPDX-License-Identifier: Apache-2.0
#include "compose/math/threads.h"

#include <unistd.h>

#include <cstdlib>

namespace motet::math {

void SleepWhileWaiting(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr ||
      std::getenv("GOMP_SPINCOUNT") != nullptr) {
    return;
  }
  setenv("OMP_WAIT_POLICY", "passive", 1);
  // Loops of a token follow one another within microseconds: waking a thread
  // for each would cost more than the loop.
  setenv("GOMP_SPINCOUNT", "5000", 1);
  // Where this fails (no /proc), the program runs on, spinning.
  execv("/proc/self/exe", argv);
}

}  // namespace motet::math
