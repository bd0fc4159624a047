// SPDX-License-Identifier: Apache-2.0
// Options that are numbers within a range, one line each:
//   const NumberOptions number{*command};
//   number("--steps", o->steps, 1, 1e9, "Optimiser steps");
#pragma once

#include <CLI/CLI.hpp>

namespace motet::coordinator {

struct NumberOptions {
  CLI::App& command;

  template <typename Number>
  void operator()(const char* name, Number& target, double least, double most,
                  const char* meaning) const {
    command.add_option(name, target, meaning)
        ->check(CLI::Range(least, most))
        ->capture_default_str();
  }
};

}  // namespace motet::coordinator
