// SPDX-License-Identifier: Apache-2.0
#include "compose/math/operators.h"

namespace motet::math {
namespace {

constexpr OpInfo kOperators[] = {
#define MOTET_INFO(name, has_backward, formula, shapes, source) \
  {OpId::k##name, #name, has_backward, formula, shapes, source},
    MOTET_OPERATORS(MOTET_INFO)
#undef MOTET_INFO
};

}  // namespace

std::span<const OpInfo> Operators() { return kOperators; }

}  // namespace motet::math
