// SPDX-License-Identifier: Apache-2.0
// Ours in the row of a cold start: starts a program, waits for its end, and
// tells the seconds in between. The files that it reads are in the page
// cache after the first, uncounted round.
//
//   load_bench PROGRAM ARGUMENT...     a player (player.h)
//
// Task: first_token, in seconds.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/bench/player.h"

extern char** environ;

namespace motet::bench {
namespace {

absl::StatusOr<double> RunOnce(char** argv) {
  int status = -1;
  const double seconds = Seconds([&] {
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    pid_t pid = 0;
    if (posix_spawnp(&pid, argv[0], &files, nullptr, argv, environ) == 0) {
      waitpid(pid, &status, 0);
    }
    posix_spawn_file_actions_destroy(&files);
  });
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(
        absl::StrCat(argv[0], " ended with status ", status));
  }
  return seconds;
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  motet::bench::Player player;
  if (argc > 1) {
    player.Add("first_token",
               [&] { return motet::bench::RunOnce(argv + 1); });
  }
  return player.Run();
}
