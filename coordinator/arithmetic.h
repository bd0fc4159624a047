// SPDX-License-Identifier: Apache-2.0
// --arithmetic on a command line: which products the model's matrices run
// with. Parsed here, carried as math::Product in EngineOptions and the
// options of compose/measure.
#pragma once

#include "compose/math/operators.h"

namespace CLI {
class App;
}

namespace motet::coordinator {

void AddArithmeticOption(CLI::App& command, math::Product& product);

}  // namespace motet::coordinator
