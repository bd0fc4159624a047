// SPDX-License-Identifier: Apache-2.0
// Normal forms and lower case of a text, as the stock library's normalizers
// give them. Valid UTF-8 in and out; a text that would not change is found
// by one look at each of its characters.
#pragma once

#include <string>

namespace motet::model {

void ToNfc(std::string& text);
void ToNfd(std::string& text);
// Character by character: a final sigma is not looked for.
void ToLower(std::string& text);

}  // namespace motet::model
