// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

namespace motet::testing {
namespace {

std::vector<std::string> MakeEnvironment(const Environment& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    const std::string key = text.substr(0, text.find('='));
    if (key.rfind("MOTET_", 0) == 0 || added.count(key) != 0) continue;
    all.push_back(text);
  }
  for (const auto& [key, value] : added) all.push_back(key + "=" + value);
  return all;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

pid_t Spawn(std::vector<std::string> arguments, const std::string& out,
            const std::string& err, const Environment& environment) {
  std::vector<std::string> variables = MakeEnvironment(environment);
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(variables);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(126);  // it died before the line above
  const int flags = O_WRONLY | O_CREAT | O_APPEND;
  const int in = open("/dev/null", O_RDONLY);
  const int out_fd = open(out.c_str(), flags, 0600);
  const int err_fd = out == err ? out_fd : open(err.c_str(), flags, 0600);
  if (in < 0 || out_fd < 0 || err_fd < 0) _exit(126);
  dup2(in, 0);
  dup2(out_fd, 1);
  dup2(err_fd, 2);
  execve(argv[0], argv.data(), envp.data());
  _exit(127);
}

}  // namespace

Process::Process(const std::vector<std::string>& arguments,
                 const std::string& log, const Environment& environment)
    : pid_(Spawn(arguments, log, log, environment)), log_(log) {}

Process& Process::operator=(Process&& other) noexcept {
  if (this == &other) return *this;
  Kill();
  pid_ = std::exchange(other.pid_, -1);
  code_ = other.code_;
  log_ = other.log_;
  return *this;
}

bool Process::Alive() {
  if (pid_ <= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  pid_ = -1;
  return false;
}

void Process::Signal(int number) {
  if (Alive()) kill(pid_, number);
}

void Process::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  int status = 0;
  waitpid(pid_, &status, 0);
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  pid_ = -1;
}

int Process::Wait() {
  if (!WaitUntil("the end of the process with log " + log_,
                 [this] { return !Alive(); })) {
    Kill();
  }
  return code_;
}

int Process::Stop() {
  Signal(SIGTERM);
  return Wait();
}

Result Run(const std::vector<std::string>& arguments,
           const std::string& scratch, const Environment& environment) {
  static int number = 0;
  const std::string stem = scratch + "/command" + std::to_string(++number);
  const pid_t pid =
      Spawn(arguments, stem + ".out", stem + ".err", environment);
  int status = 0;
  const bool ended =
      WaitUntil("the end of " + arguments[0] + " " +
                    (arguments.size() > 1 ? arguments[1] : ""),
                [&] { return waitpid(pid, &status, WNOHANG) == pid; });
  if (!ended) {
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
          ReadText(stem + ".out"), ReadText(stem + ".err")};
}

bool WaitUntil(const std::string& what,
               const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(kPatienceSeconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "waited in vain for " << what;
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  ASSERT_TRUE(file.good()) << path;
}

int FreePort() {
  // Below the range that the kernel gives to outgoing connections, so that
  // none of those takes it between this look and its use.
  std::random_device random;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const int port = 20000 + static_cast<int>(random() % 12000);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool free =
        bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    close(fd);
    if (free) return port;
  }
  ADD_FAILURE() << "no free port";
  return 0;
}

std::string NewFolder(const std::string& name) {
  std::string path = ::testing::TempDir() + "motet-" + name + "-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) ADD_FAILURE() << path;
  return path;
}

std::string Program(const std::string& name) {
  const char* folder = getenv("MOTET_BIN");
  const std::string path =
      std::string(folder == nullptr ? "." : folder) + "/" + name;
  if (access(path.c_str(), X_OK) != 0) {
    ADD_FAILURE() << "got no program " << path
                  << ", want MOTET_BIN=the build folder";
  }
  return path;
}

}  // namespace motet::testing
