// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include "compose/math/kernels.h"

namespace motet::math {

const Kernels& Cpu() { return Reference(); }

const char* InstructionSet() { return "avx2"; }

int Threads() { return omp_get_max_threads(); }

void SetThreads(int threads) { omp_set_num_threads(threads); }

}  // namespace motet::math
