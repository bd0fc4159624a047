// SPDX-License-Identifier: Apache-2.0
// What a build without CUDA answers: no device, by name.
#include <cstdio>
#include <cstdlib>

#include "compose/math/operators.h"

namespace motet::math {

bool HasCuda() { return false; }

const Kernels& Cuda() {
  std::fprintf(stderr,
               "[compose/math] got a request for CUDA kernels, want a build "
               "with CUDA; use the CPU ones, or build with a CUDA toolkit\n");
  std::exit(1);
}

}  // namespace motet::math
