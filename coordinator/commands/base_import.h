// SPDX-License-Identifier: Apache-2.0
// motet base import, below the noun that base.cc makes.
#pragma once

#include "coordinator/cli.h"

namespace motet::coordinator {

void AddBaseImport(CLI::App& noun, Context& context);

}  // namespace motet::coordinator
