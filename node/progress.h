// SPDX-License-Identifier: Apache-2.0
// Progress for the person at the node: a bar on a terminal, a line each ten
// seconds elsewhere. Numbers in, text on stderr; nothing else.
#pragma once

#include <cstdint>
#include <string>

namespace motet::node {

// "1,234", "12 s", "3 min 20 s".
std::string Duration(double seconds);

class ProgressLine {
 public:
  explicit ProgressLine(std::string title);
  ~ProgressLine();
  // fraction: 0..1. Shows when the time has come.
  void Update(double fraction, const std::string& detail);

 private:
  const std::string title_;
  const bool terminal_;
  bool shown_ = false;
  double last_ = -1e9;
};

// Peak resident memory of this process.
double PeakRssMib();

}  // namespace motet::node
