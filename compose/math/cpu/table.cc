// SPDX-License-Identifier: Apache-2.0
// Which instruction set runs, and the table of the fast forms.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <omp.h>

#include "compose/math/cpu/isa.h"
#include "compose/math/kernels.h"
#include "compose/math/processor.h"

#ifdef MOTET_HAS_DNNL
#include <dnnl.h>
#endif

namespace motet::math {
namespace cpu {
namespace {

[[noreturn]] void Refuse(const char* got, const char* want,
                         const char* remedy) {
  std::fprintf(stderr, "[compose/math] got %s, want %s; %s\n", got, want,
               remedy);
  std::exit(1);
}

// On an Intel core (family 6, model 207) a vdpbf16ps took as long as four fused
// multiply-adds of its width and does the work of two, so f32 is the faster
// kind; AMD's Zen 4 has it the other way. Told by the maker: others of either
// were not measured, and measuring at every start would not give the same bits.
bool Bf16IsFast() { return !__builtin_cpu_is("intel"); }

const Isa& Choose() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    Refuse("a processor without AVX2 and FMA", "one that has both",
           "run on an x86-64 processor of 2013 or later");
  }
  const char* asked = std::getenv("MOTET_CPU");
  if (asked == nullptr || *asked == '\0') {
    return HasAvx512Bf16() ? Avx512Bf16(Bf16IsFast())
           : HasAvx512()   ? Avx512()
                           : Avx2();
  }
  if (std::strcmp(asked, "avx512bf16") == 0) {
    if (!HasAvx512Bf16()) {
      Refuse("MOTET_CPU=avx512bf16 on a processor without AVX512_BF16",
             "avx512 or avx2", "unset MOTET_CPU or set it to one of these");
    }
    return Avx512Bf16(Bf16IsFast());
  }
  if (std::strcmp(asked, "avx512") == 0) {
    if (!HasAvx512()) {
      Refuse("MOTET_CPU=avx512 on a processor without AVX-512", "avx2",
             "unset MOTET_CPU or set it to avx2");
    }
    return Avx512();
  }
  if (std::strcmp(asked, "avx2") == 0) {
#ifdef MOTET_HAS_DNNL
    dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
#endif
    return Avx2();
  }
  Refuse("another value of MOTET_CPU", "avx2, avx512 or avx512bf16",
         "unset or correct it");
}

const Isa*& Current() {
  static const Isa* current = &Choose();
  return current;
}

}  // namespace

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool HasAvx512Bf16() {
  return HasAvx512() && __builtin_cpu_supports("avx512bf16");
}

const Isa& Active() { return *Current(); }

void Activate(const Isa& isa) { Current() = &isa; }

}  // namespace cpu

const Kernels& Cpu() {
  cpu::Active();  // refuses an unfit processor before anything ran
  static const Kernels table = {
      "cpu",
#define MOTET_FILL(member, function) cpu::function,
      MOTET_KERNELS(MOTET_FILL)
#undef MOTET_FILL
  };
  return table;
}

const char* InstructionSet() { return cpu::Active().name; }

bool HasBf16() { return cpu::Active().bf16.tile != nullptr; }
bool FastBf16() { return HasBf16() && cpu::Bf16IsFast(); }
void NarrowBf16(const float* x, int64_t n, uint16_t* out) {
  cpu::Active().narrow(x, n, out);
}

int Threads() { return omp_get_max_threads(); }

void SetThreads(int threads) { omp_set_num_threads(threads); }

}  // namespace motet::math
