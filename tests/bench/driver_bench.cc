// SPDX-License-Identifier: Apache-2.0
// Measures rows. Standard input holds run.sh's table, one line each, fields
// apart by tabs:
//   player NAME PROGRAM ARGUMENT...      how to start a side (player.h)
//   absent NAME REASON                   a side that is not here
//   row NAME UNIT higher|lower TARGET OURS [PEER...]
// where OURS is "player task" and a PEER is "player task label...". A row
// runs one uncounted round of every side, then N rounds, the sides taking
// turns and the order turning round by round. The peer with the best median
// counts; the ratio is the median of the rounds' ratios, above 1 where ours
// is better. A player is started at its first row and ended after its last.
//
//   driver_bench --output text|json [--rounds N] < table
//
// Ends with status 1 when one of ours could not be measured; an absent peer
// is no failure.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

// A running player and the pipes to it.
class Process {
 public:
  explicit Process(const std::vector<std::string>& command) {
    int in[2], out[2];
    // Closed in every other player: the pipe's end is how one is told to end.
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      std::vector<char*> argv;
      for (const std::string& word : command) {
        argv.push_back(const_cast<char*>(word.c_str()));
      }
      argv.push_back(nullptr);
      execvp(argv[0], argv.data());
      std::perror(argv[0]);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (to_ != nullptr) std::fclose(to_);
    if (from_ != nullptr) std::fclose(from_);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }

  absl::StatusOr<double> Ask(const std::string& task) {
    if (to_ == nullptr || std::fprintf(to_, "%s\n", task.c_str()) < 0 ||
        std::fflush(to_) != 0) {
      return absl::InternalError("the player has ended");
    }
    std::string line;
    for (int c; (c = std::fgetc(from_)) != EOF;) {
      if (c != '\n') {
        line.push_back(static_cast<char>(c));
        continue;
      }
      const auto answer = nlohmann::json::parse(line, nullptr, false);
      line.clear();
      if (!answer.is_object()) continue;  // what a library had to say
      if (answer.contains("value") && answer["value"].is_number()) {
        return answer["value"].get<double>();
      }
      return absl::InternalError(answer.value("error", "no value"));
    }
    return absl::InternalError("the player has ended without an answer");
  }

 private:
  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

struct Side {
  std::string player, task, label;
};
struct Row {
  std::string name, unit;
  bool higher = true;
  double target = 0;
  Side ours;
  std::vector<Side> peers;
};
struct Result {
  std::optional<double> ours, peer, ratio;
  std::string peer_name;
};

std::vector<std::string> Split(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream in(line);
  for (std::string field; std::getline(in, field, '\t');) {
    fields.push_back(field);
  }
  return fields;
}

Side ParseSide(const std::string& text) {
  Side side;
  std::istringstream in(text);
  in >> side.player >> side.task >> std::ws;
  std::getline(in, side.label);
  return side;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2]
                    : (values[n / 2 - 1] + values[n / 2]) / 2;
}

class Driver {
 public:
  explicit Driver(int rounds) : rounds_(rounds) {}

  // False, with the reason on standard error, for a line that is no table's.
  bool Read(std::istream& in) {
    for (std::string line; std::getline(in, line);) {
      const std::vector<std::string> f = Split(line);
      if (f.empty()) continue;
      if (f[0] == "player" && f.size() >= 3) {
        commands_[f[1]] = {f.begin() + 2, f.end()};
      } else if (f[0] == "absent" && f.size() == 3) {
        absent_[f[1]] = f[2];
      } else if (f[0] == "row" && f.size() >= 6) {
        Row row{f[1], f[2], f[3] == "higher", std::stod(f[4]),
                ParseSide(f[5]), {}};
        for (size_t i = 6; i < f.size(); ++i) {
          row.peers.push_back(ParseSide(f[i]));
        }
        rows_.push_back(row);
      } else {
        std::fprintf(stderr, "[bench] got '%s', want a line of a table\n",
                     line.c_str());
        return false;
      }
    }
    return true;
  }

  Result Measure(size_t index) {
    const Row& row = rows_[index];
    Result result;
    std::vector<Side> sides = {row.ours};
    sides.insert(sides.end(), row.peers.begin(), row.peers.end());
    std::vector<std::string> problem(sides.size());
    std::vector<std::vector<double>> values(sides.size());
    for (int round = -1; round < rounds_; ++round) {
      std::fprintf(stderr, "[bench] %s: %s\n", row.name.c_str(),
                   round < 0 ? "loading and one uncounted round"
                             : ("round " + std::to_string(round + 1)).c_str());
      for (size_t i = 0; i < sides.size(); ++i) {
        const size_t side = round % 2 == 0 ? i : sides.size() - 1 - i;
        if (!problem[side].empty()) continue;
        const absl::StatusOr<double> value = Ask(sides[side]);
        if (!value.ok()) {
          problem[side] = std::string(value.status().message());
          std::fprintf(stderr, "[bench] %s: %s %s: %s\n", row.name.c_str(),
                       sides[side].player.c_str(), sides[side].task.c_str(),
                       problem[side].c_str());
        } else if (round >= 0) {
          values[side].push_back(*value);
        }
      }
    }
    size_t best = 0;  // none
    for (size_t side = 1; side < sides.size(); ++side) {
      if (!problem[side].empty()) continue;
      if (best == 0 ||
          (Median(values[side]) > Median(values[best])) == row.higher) {
        best = side;
      }
    }
    if (problem[0].empty()) result.ours = Median(values[0]);
    if (best != 0) {
      result.peer = Median(values[best]);
      result.peer_name = sides[best].label;
    } else {
      for (size_t side = 1; side < sides.size(); ++side) {
        result.peer_name += (side == 1 ? "" : "; ") + sides[side].label +
                            " (absent: " + problem[side] + ")";
      }
    }
    if (result.ours && result.peer) {
      std::vector<double> ratios;
      for (int i = 0; i < rounds_; ++i) {
        const double a = values[0][i], b = values[best][i];
        ratios.push_back(row.higher ? a / b : b / a);
      }
      result.ratio = Median(ratios);
    }
    EndPlayers(index);
    return result;
  }

  const std::vector<Row>& rows() const { return rows_; }

 private:
  absl::StatusOr<double> Ask(const Side& side) {
    if (const auto it = absent_.find(side.player); it != absent_.end()) {
      return absl::NotFoundError(it->second);
    }
    const auto command = commands_.find(side.player);
    if (command == commands_.end()) {
      return absl::NotFoundError("no player " + side.player);
    }
    std::unique_ptr<Process>& process = running_[side.player];
    if (process == nullptr) {
      process = std::make_unique<Process>(command->second);
    }
    absl::StatusOr<double> value = process->Ask(side.task);
    if (!value.ok()) process.reset();  // its state is anybody's guess
    return value;
  }

  // Players that no later row wants give their memory back.
  void EndPlayers(size_t index) {
    std::erase_if(running_, [&](const auto& running) {
      for (size_t i = index + 1; i < rows_.size(); ++i) {
        if (rows_[i].ours.player == running.first) return false;
        for (const Side& peer : rows_[i].peers) {
          if (peer.player == running.first) return false;
        }
      }
      return true;
    });
  }

  int rounds_;
  std::map<std::string, std::vector<std::string>> commands_;
  std::map<std::string, std::string> absent_;
  std::map<std::string, std::unique_ptr<Process>> running_;
  std::vector<Row> rows_;
};

std::string Processor() {
  std::ifstream in("/proc/cpuinfo");
  std::string name = "unknown";
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) {
      name = line.substr(line.find(':') + 2);
      break;
    }
  }
  return name + ", " + math::InstructionSet() + ", " +
         std::to_string(math::Threads()) + " threads";
}

void WarnWhenBusy() {
  double load = 0;
  std::ifstream("/proc/loadavg") >> load;
  if (load > 0.5) {
    std::fprintf(stderr,
                 "[bench] load average %.1f before the first row: other "
                 "programs are running, look at no number too closely\n",
                 load);
  }
}

std::string Number(const std::optional<double>& value) {
  if (!value) return "-";
  char text[32];
  std::snprintf(text, sizeof text, *value < 10 ? "%.3f" : "%.1f", *value);
  return text;
}

nlohmann::ordered_json OrNull(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

int Main(int argc, char** argv) {
  const bool json = Option(argc, argv, "output", "text") == "json";
  const int rounds = std::stoi(Option(argc, argv, "rounds", "5"));
  Driver driver(std::max(1, rounds));
  if (!driver.Read(std::cin)) return 2;
  WarnWhenBusy();
  const std::string cpu = Processor();
  bool all_ours = true;
  if (json) {
    std::printf("[");
  } else {
    std::printf("%s\n%-19s %9s %9s %6s %6s  %-9s %s\n", cpu.c_str(),
                "benchmark", "ours", "peer", "ratio", "want", "unit", "peer");
  }
  for (size_t i = 0; i < driver.rows().size(); ++i) {
    const Row& row = driver.rows()[i];
    const Result r = driver.Measure(i);
    all_ours = all_ours && r.ours.has_value();
    if (json) {
      const nlohmann::ordered_json line = {
          {"name", row.name},           {"ours", OrNull(r.ours)},
          {"peer", OrNull(r.peer)},     {"peer_name", r.peer_name},
          {"ratio", OrNull(r.ratio)},   {"unit", row.unit},
          {"cpu", cpu}};
      std::printf("%s%s", i == 0 ? "" : ",\n ", line.dump().c_str());
    } else {
      char want[16];
      std::snprintf(want, sizeof want, "%.2f", row.target);
      std::printf("%-19s %9s %9s %6s %6s  %-9s %s\n", row.name.c_str(),
                  Number(r.ours).c_str(), Number(r.peer).c_str(),
                  r.ratio ? Number(r.ratio).substr(0, 5).c_str() : "-", want,
                  row.unit.c_str(), r.peer_name.c_str());
    }
    std::fflush(stdout);
  }
  if (json) std::printf("]\n");
  return all_ours ? 0 : 1;
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  return motet::bench::Main(argc, argv);
}
