// SPDX-License-Identifier: Apache-2.0
// One side of a benchmark: a process that lives as long as its rows. The
// driver writes a task's name and a line end; the player runs one timed round
// and answers with one line of JSON, {"value": 123.4} or {"error": "..."}.
// Whatever a task needs is loaded in its first round, which the driver does
// not count. "NAME@1" asks for the round on one thread. The peers' players
// speak the same (peers/player.py).
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "compose/math/operators.h"

namespace motet::bench {

// One timed round; the row's unit is the table's business (run.sh).
using Round = std::function<absl::StatusOr<double>()>;

class Player {
 public:
  void Add(const std::string& task, Round round);
  // Answers until standard input ends; then the program's exit status.
  int Run();

 private:
  std::map<std::string, Round> tasks_;
};

double Seconds(const std::function<void()>& work);

// The kinds of product that ours runs on, by the name that --arithmetic takes.
struct Arithmetic {
  const char* name;
  math::Product serving;
  math::Product training;
  bool bf16;  // products round their factors to bf16
};
// Null, with a line on standard error, for a name that is not in the table and
// for one that this processor has not.
const Arithmetic* FindArithmetic(const std::string& name);

// The value after --NAME in argv, or `otherwise`.
std::string Option(int argc, char** argv, const std::string& name,
                   const std::string& otherwise);

}  // namespace motet::bench
