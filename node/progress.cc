// SPDX-License-Identifier: Apache-2.0
#include "node/progress.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include <spdlog/spdlog.h>

namespace motet::node {
namespace {

constexpr double kTerminalSeconds = 0.1;
constexpr double kLineSeconds = 10;
constexpr int kCells = 24;

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string Duration(double seconds) {
  const int64_t s = static_cast<int64_t>(std::max(0.0, seconds) + 0.5);
  if (s < 60) return absl::StrCat(s, " s");
  if (s < 3600) return absl::StrCat(s / 60, " min ", s % 60, " s");
  return absl::StrCat(s / 3600, " h ", s % 3600 / 60, " min");
}

ProgressLine::ProgressLine(std::string title)
    : title_(std::move(title)),
      terminal_(isatty(STDERR_FILENO) == 1),
      last_(terminal_ ? -1e9 : Seconds()) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && shown_) std::fputs("\r\033[K", stderr);
}

void ProgressLine::Update(double fraction, const std::string& detail) {
  const double now = Seconds();
  if (now - last_ < (terminal_ ? kTerminalSeconds : kLineSeconds)) return;
  last_ = now;
  fraction = std::clamp(fraction, 0.0, 1.0);
  if (!terminal_) {
    spdlog::info("{}: {:.0f} %  {}", title_, fraction * 100, detail);
    return;
  }
  shown_ = true;
  const int full = static_cast<int>(fraction * kCells);
  std::string bar;
  for (int i = 0; i < kCells; ++i) absl::StrAppend(&bar, i < full ? "█" : "░");
  absl::FPrintF(stderr, "\r\033[K%s %s %3.0f %%  %s", title_, bar,
                fraction * 100, detail);
  std::fflush(stderr);
}

double PeakRssMib() {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

}  // namespace motet::node
