// SPDX-License-Identifier: Apache-2.0
// The command-line library's complaints in the form of every other error of
// ours: [where] got X, want Y.
#pragma once

#include <string>

namespace motet::coordinator {

// command: "motet serve". kind and text: the library's error's name and
// message. What it says in no form known here is handed on as it is.
std::string UsageMessage(const std::string& command, const std::string& kind,
                         const std::string& text);

}  // namespace motet::coordinator
