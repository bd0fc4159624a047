// SPDX-License-Identifier: Apache-2.0
// Ours in the rows of merges: three branches of a base, as Hugging Face
// folders, into one safetensors file. Every round is a process of its own, so
// that its memory is.
//
//   merge_bench --base FOLDER --models FOLDER --out FOLDER    a player
//
// The models are FOLDER/model0 to model2; slerp takes the first two. Tasks:
// ties, slerp, linear, in seconds from before the files are opened to the
// synced and renamed result; each with _memory, the most that the process
// held, in MiB.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compose/assemble/merge_kinds.h"
#include "compose/assemble/merge_parts.h"
#include "proto/error.h"
#include "proto/files.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

struct Folders {
  std::string base, models, out;
};

absl::Status Merge(const Folders& folders, const std::string& kind) {
  assemble::MergeParts parts;
  const auto open = [&](const std::string& folder) {
    return package::SafetensorsFile::Open(folder + "/model.safetensors");
  };
  MOTET_ASSIGN_OR_RETURN(const auto base, open(folders.base));
  parts.files.push_back(base);
  for (const auto& entry : base->entries()) {
    assemble::MergeTensor t;
    t.name = entry.name;
    t.base = entry.tensor;
    parts.tensors.push_back(std::move(t));
  }
  assemble::MergeRule rule;
  rule.kind = assemble::FindMergeKind(kind)->kind;
  rule.density = 0.2;
  rule.t = 0.4;
  const int models = kind == "slerp" ? 2 : 3;
  for (int j = 0; j < models; ++j) {
    MOTET_ASSIGN_OR_RETURN(const auto file,
                           open(absl::StrCat(folders.models, "/model", j)));
    parts.files.push_back(file);
    for (assemble::MergeTensor& t : parts.tensors) {
      t.models.push_back(file->Find(t.name));
    }
    rule.weights.push_back(1.0 / models);
  }
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folders.out));
  return assemble::MergeToFile(rule, std::move(parts),
                               folders.out + "/model.safetensors", {});
}

// The task in a child; its seconds, or its memory.
absl::StatusOr<double> RunOnce(const Folders& folders, std::string task) {
  const bool memory = absl::EndsWith(task, "_memory");
  task = std::string(absl::StripSuffix(task, "_memory"));
  int status = -1;
  rusage usage = {};
  const double seconds = Seconds([&] {
    const pid_t pid = fork();
    if (pid == 0) {
      const absl::Status merged = Merge(folders, task);
      if (!merged.ok()) {
        std::fprintf(stderr, "%s\n", merged.ToString().c_str());
      }
      _exit(merged.ok() ? 0 : 1);
    }
    wait4(pid, &status, 0, &usage);
  });
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(absl::StrCat("merge ended with ", status));
  }
  return memory ? static_cast<double>(usage.ru_maxrss) / 1024 : seconds;
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  using motet::bench::Option;
  const motet::bench::Folders folders = {Option(argc, argv, "base", ""),
                                         Option(argc, argv, "models", ""),
                                         Option(argc, argv, "out", "")};
  motet::bench::Player player;
  for (const char* kind : {"ties", "slerp", "linear"}) {
    for (const char* what : {"", "_memory"}) {
      const std::string task = absl::StrCat(kind, what);
      player.Add(task, [&folders, task] {
        return motet::bench::RunOnce(folders, task);
      });
    }
  }
  return player.Run();
}
