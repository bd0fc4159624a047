// SPDX-License-Identifier: Apache-2.0
// libFuzzer program, built with -DMOTET_FUZZ=ON.
#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  motet::fuzz::Pilots(
      std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
