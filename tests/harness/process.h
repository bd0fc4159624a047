// SPDX-License-Identifier: Apache-2.0
// Real processes for tests. A Process is killed and reaped when its object
// goes, and by the kernel when the test program dies: nothing survives a test.
// Run() waits for a command's end and gives what it printed. WaitUntil() waits
// on a condition. Nothing here knows of federations.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace motet::testing {

// Added to the environment of a process. MOTET_* variables of the test's own
// environment are not handed on.
using Environment = std::map<std::string, std::string>;

// Patience of every wait; a wait that needs it has failed.
inline constexpr int kPatienceSeconds = 180;

class Process {
 public:
  Process() = default;
  // Both outputs go to the end of the file LOG.
  Process(const std::vector<std::string>& arguments, const std::string& log,
          const Environment& environment);
  ~Process() { Kill(); }
  Process(Process&& other) noexcept { *this = std::move(other); }
  Process& operator=(Process&& other) noexcept;

  bool Alive();
  void Signal(int number);
  // SIGKILL, and reaped.
  void Kill();
  // Exit code, or minus the signal's number. A process that does not end is
  // a failure of the test, and is killed.
  int Wait();
  // SIGTERM, then Wait.
  int Stop();
  pid_t pid() const { return pid_; }
  const std::string& log() const { return log_; }

 private:
  pid_t pid_ = -1;
  int code_ = 0;
  std::string log_;
};

struct Result {
  int code = -1;
  std::string out;  // stdout
  std::string err;  // stderr
};
// SCRATCH: a folder for the two outputs.
Result Run(const std::vector<std::string>& arguments,
           const std::string& scratch, const Environment& environment);

// Fails the test, naming WHAT, when the condition does not come.
bool WaitUntil(const std::string& what, const std::function<bool()>& condition);

std::string ReadText(const std::string& path);  // "" when absent
void WriteText(const std::string& path, const std::string& text);
// A port of loopback that nobody listens on.
int FreePort();
// An empty folder of this test's own.
std::string NewFolder(const std::string& name);
// The program motet, motet-node or motet-registry: $MOTET_BIN/NAME.
std::string Program(const std::string& name);

}  // namespace motet::testing
