// SPDX-License-Identifier: Apache-2.0
// What every command shares. A command is one file in commands/: it adds a
// sub-command with its options and leaves its status in the context. Results
// go to stdout (text or JSON), talk and progress to stderr.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace CLI {
class App;
}

namespace motet::coordinator {

struct Context {
  std::string federation = ".";  // folder; --federation, MOTET_FEDERATION
  bool json = false;             // -o json
  absl::Status status;           // left by the command that ran
};

// Exit codes: 0 success, 1 failure, 2 usage, 130 Cancelled by an interrupt.
int ExitCode(const absl::Status& status);

// From here on the first SIGINT or SIGTERM ends nothing by itself: the command
// asks Interrupted() between its steps, and leaves what a second run goes on
// from. A second one of its kind ends the process at once.
void WatchInterrupts();
bool Interrupted();

// Makes `fn` the action of `command`.
void SetAction(CLI::App* command, Context& context,
               std::function<absl::Status()> fn);
// Finds the noun ("compose") below app, or adds it with its description.
CLI::App* Noun(CLI::App& app, const std::string& name,
               const std::string& description);

// The table of commands: each adds itself.
using AddCommand = void (*)(CLI::App& app, Context& context);
void AddInit(CLI::App& app, Context& context);
void AddMember(CLI::App& app, Context& context);
void AddCorpus(CLI::App& app, Context& context);
void AddTokenize(CLI::App& app, Context& context);
void AddBase(CLI::App& app, Context& context);
void AddDaemon(CLI::App& app, Context& context);
void AddTrain(CLI::App& app, Context& context);
void AddExpert(CLI::App& app, Context& context);
void AddCompose(CLI::App& app, Context& context);  // plan, apply, export
void AddEval(CLI::App& app, Context& context);     // matrix, exclusion, …
void AddGenerate(CLI::App& app, Context& context);
void AddServe(CLI::App& app, Context& context);
void AddModel(CLI::App& app, Context& context);    // show, convert

// Aligned columns; the first left, the others right. Bold marks only on a
// terminal. Cells with mark == true get a trailing "*" (or bold).
struct Cell {
  std::string text;
  bool mark = false;
};
std::string AlignedTable(const std::vector<std::string>& head,
                         const std::vector<std::vector<Cell>>& rows);

// A progress line on stderr: a bar on a terminal, a line each 10 s elsewhere
// (nothing elsewhere with kTerminal).
class ProgressLine {
 public:
  enum Where { kEverywhere, kTerminal };
  explicit ProgressLine(std::string title, Where where = kEverywhere);
  ~ProgressLine();
  void Update(double fraction, const std::string& detail);
  void Finish(const std::string& detail);

 private:
  std::string title_;
  bool terminal_, quiet_;
  bool finished_ = false;
  double last_ = -1e9;
};

}  // namespace motet::coordinator
