// SPDX-License-Identifier: Apache-2.0
// The plain forms: loops that read like the formula, sums in double, one
// thread. Tests compare every fast form with these; nothing serves by them.
#include "compose/math/kernels.h"

namespace motet::math {

const Kernels& Reference() {
  static const Kernels table = {
      "reference",
#define MOTET_FILL(member, function) reference::function,
      MOTET_KERNELS(MOTET_FILL)
#undef MOTET_FILL
  };
  return table;
}

}  // namespace motet::math
