// SPDX-License-Identifier: Apache-2.0
#include "coordinator/cli.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace motet::coordinator {
namespace {

std::atomic<bool> g_interrupted = false;

double Now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Columns that a UTF-8 text takes, wide characters aside.
size_t Columns(const std::string& text) {
  size_t n = 0;
  for (unsigned char c : text) n += (c & 0xC0) != 0x80;
  return n;
}

}  // namespace

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  if (absl::IsCancelled(status) && Interrupted()) return 130;
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

void WatchInterrupts() {
  struct sigaction once = {};
  once.sa_handler = [](int) { g_interrupted = true; };
  once.sa_flags = SA_RESETHAND | SA_RESTART;
  sigaction(SIGINT, &once, nullptr);
  sigaction(SIGTERM, &once, nullptr);
}

bool Interrupted() { return g_interrupted.load(); }

void SetAction(CLI::App* command, Context& context,
               std::function<absl::Status()> fn) {
  command->callback(
      [&context, fn = std::move(fn)] { context.status = fn(); });
}

CLI::App* Noun(CLI::App& app, const std::string& name,
               const std::string& description) {
  for (CLI::App* known : app.get_subcommands({})) {
    if (known->get_name() == name) return known;
  }
  CLI::App* noun = app.add_subcommand(name, description);
  noun->require_subcommand(1);
  noun->fallthrough();
  return noun;
}

std::string AlignedTable(const std::vector<std::string>& head,
                         const std::vector<std::vector<Cell>>& rows) {
  const bool color = isatty(STDOUT_FILENO) == 1;
  std::vector<size_t> width(head.size());
  for (size_t c = 0; c < head.size(); ++c) width[c] = Columns(head[c]);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size() && c < width.size(); ++c) {
      width[c] = std::max(width[c], Columns(row[c].text));
    }
  }
  std::string out;
  const auto put = [&](size_t c, const std::string& text, bool mark) {
    const std::string pad(width[c] - Columns(text), ' ');
    if (c > 0) absl::StrAppend(&out, "  ", pad);
    if (mark && color) {
      absl::StrAppend(&out, "\033[1;32m", text, "\033[0m ");
    } else {
      absl::StrAppend(&out, text, c == 0 ? "" : (mark ? "*" : " "));
    }
    if (c == 0) absl::StrAppend(&out, pad);
  };
  for (size_t c = 0; c < head.size(); ++c) put(c, head[c], false);
  absl::StrAppend(&out, "\n");
  size_t total = 0;
  for (size_t c = 0; c < head.size(); ++c) total += width[c] + (c ? 3 : 0);
  absl::StrAppend(&out, std::string(total, '-'), "\n");
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size() && c < width.size(); ++c) {
      put(c, row[c].text, row[c].mark);
    }
    absl::StrAppend(&out, "\n");
  }
  return out;
}

ProgressLine::ProgressLine(std::string title, Where where)
    : title_(std::move(title)),
      terminal_(isatty(STDERR_FILENO) == 1),
      quiet_(where == kTerminal && !terminal_) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && !finished_ && last_ > 0) fputs("\n", stderr);
}

void ProgressLine::Update(double fraction, const std::string& detail) {
  if (quiet_) return;
  const double now = Now();
  if (now - last_ < (terminal_ ? 0.1 : 10.0)) return;
  last_ = now;
  fraction = std::clamp(fraction, 0.0, 1.0);
  if (!terminal_) {
    absl::FPrintF(stderr, "%s: %3.0f %%  %s\n", title_, fraction * 100,
                  detail);
    return;
  }
  constexpr int kCells = 24;
  const int full = static_cast<int>(fraction * kCells);
  std::string bar;
  for (int i = 0; i < kCells; ++i) absl::StrAppend(&bar, i < full ? "█" : "░");
  absl::FPrintF(stderr, "\r\033[K%s %s %3.0f %%  %s", title_, bar,
                fraction * 100, detail);
  fflush(stderr);
}

void ProgressLine::Finish(const std::string& detail) {
  finished_ = true;
  if (quiet_) return;
  absl::FPrintF(stderr, "%s%s: %s\n", terminal_ ? "\r\033[K" : "", title_,
                detail);
}

}  // namespace motet::coordinator
