// SPDX-License-Identifier: Apache-2.0
// A job's process is killed, or its disk is full: the run goes on to the
// same weights. Work happens in forked children, which a test may kill; the
// parent itself starts no threads.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "node/job_store.h"
#include "node/runner.h"
#include "proto/files.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using testing::FakeRegistry;
using testing::NewFolder;
using testing::ReadAll;
using testing::TestFederation;
using testing::WaitFor;

constexpr int kSkip = 77;

template <typename Body>
pid_t Fork(Body body) {
  const pid_t pid = fork();
  if (pid == 0) {
    const int code = body();
    _exit(::testing::Test::HasFailure() ? 1 : code);
  }
  return pid;
}
int Join(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
template <typename Body>
int InChild(Body body) {
  return Join(Fork(body));
}

// A name space in which this process may mount; false where the kernel does
// not allow one.
bool OwnMounts() {
  const uid_t uid = getuid();
  const gid_t gid = getgid();
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  const auto put = [](const char* path, const std::string& text) {
    const int fd = open(path, O_WRONLY);
    const bool done =
        fd >= 0 && write(fd, text.data(), text.size()) ==
                       static_cast<ssize_t>(text.size());
    close(fd);
    return done;
  };
  return put("/proc/self/setgroups", "deny") &&
         put("/proc/self/uid_map", absl::StrCat("0 ", uid, " 1")) &&
         put("/proc/self/gid_map", absl::StrCat("0 ", gid, " 1"));
}

class RunnerFaultTest : public ::testing::Test {
 protected:
  RunnerFaultTest() : base_(NewFolder("base") + "/package") {
    EXPECT_EQ(InChild([&] {
                testing::MakeBasePackage(federation_, base_);
                return 0;
              }),
              0);
    plan_ = testing::SomePlan();
    *plan_.mutable_base() = testing::ReferenceTo(base_);
    plan_.set_steps(120);
    plan_.set_checkpoint_every(8);
  }

  // A node's folder with the plan approved.
  Settings NodeWithJob() {
    Settings s = federation_.JoinedNode("127.0.0.1:1");
    auto store = JobStore::Open(s.dir);
    EXPECT_TRUE(store.ok());
    JobRecord job;
    job.plan = plan_;
    job.state = v1::JOB_APPROVED;
    job.received_at = Now();
    EXPECT_TRUE((*store)->Add(job).ok());
    return s;
  }
  // Runs the job in this process until it is published. during: called by
  // another thread with the store.
  int Run(const Settings& s,
          const std::function<void(JobStore&)>& during = nullptr) {
    auto store = JobStore::Open(s.dir);
    if (!store.ok()) return 2;
    FakeRegistry registry(NewFolder("registry"));
    registry.Put("demo/base@1.0.0", base_);
    RunnerContext context;
    context.settings = s;
    context.jobs = store->get();
    context.registry = [&] {
      return absl::StatusOr<std::unique_ptr<registry::Client>>(
          registry.NewClient());
    };
    context.first_backoff_ms = context.longest_backoff_ms = 10;
    Runner runner(context);
    std::thread other([&] {
      if (during) during(**store);
    });
    runner.Run("plan-1");
    other.join();
    const auto job = (*store)->Get("plan-1");
    if (job.ok() && job->state == v1::JOB_PUBLISHED) return 0;
    fprintf(stderr, "job: %s\n",
            job.ok() ? job->detail.c_str() : job.status().ToString().c_str());
    return 3;
  }
  static std::string Weights(const Settings& s) {
    return ReadAll(s.Path("jobs/plan-1/package/weights.safetensors"));
  }

  TestFederation federation_;
  std::string base_;
  v1::TrainingPlan plan_;
};

TEST_F(RunnerFaultTest, KilledAgainAndAgainItEndsWithTheSameWeights) {
  const Settings unbroken = NodeWithJob();
  ASSERT_EQ(InChild([&] { return Run(unbroken); }), 0);
  const std::string want = Weights(unbroken);
  ASSERT_FALSE(want.empty());

  const Settings s = NodeWithJob();
  const std::string checkpoint = s.Path("jobs/plan-1/checkpoint");
  const auto version = [&]() -> uint64_t {
    struct stat st;
    return stat(checkpoint.c_str(), &st) == 0 ? st.st_ino : 0;
  };
  int kills = 0;
  for (int i = 0; i < 6; ++i) {
    const uint64_t before = version();
    const pid_t pid = Fork([&] { return Run(s); });
    bool ended = false;
    // Killed at once after a new checkpoint appeared: some steps later than
    // it, or in the middle of the next one's writing.
    ASSERT_TRUE(WaitFor([&] {
      ended = waitpid(pid, nullptr, WNOHANG) == pid;
      return ended || version() != before;
    }));
    if (ended) break;
    kill(pid, SIGKILL);
    EXPECT_EQ(Join(pid), -SIGKILL);
    ++kills;
  }
  EXPECT_GE(kills, 2);
  ASSERT_EQ(InChild([&] { return Run(s); }), 0);
  EXPECT_TRUE(Weights(s) == want) << "after " << kills << " kills";
  // What the killed ones left half-written is gone.
  const auto names = proto::ListDirectory(s.Path("jobs/plan-1"));
  ASSERT_TRUE(names.ok());
  EXPECT_THAT(*names, ::testing::UnorderedElementsAre(
                          "checkpoint", "package", "plan.json", "state.json"));
}

// The job's folder is a file system of a few pages; whatever write finds it
// full, the job waits, and goes on when there is room.
TEST_F(RunnerFaultTest, AFullDiskMakesTheJobWait) {
  plan_.set_steps(24);
  plan_.set_checkpoint_every(24);  // one checkpoint, then the package
  const Settings unbroken = NodeWithJob();
  ASSERT_EQ(InChild([&] { return Run(unbroken); }), 0);
  const std::string want = Weights(unbroken);

  int waited = 0;
  for (const int free_kib : {12, 28, 44, 52, 60, 68, 200}) {
    SCOPED_TRACE(free_kib);
    const Settings s = NodeWithJob();
    const std::string job = s.Path("jobs/plan-1");
    const std::string kept = NewFolder("kept");
    const int code = InChild([&] {
      if (!OwnMounts()) return kSkip;
      std::filesystem::copy(job, kept,
                            std::filesystem::copy_options::recursive);
      if (mount("tmpfs", job.c_str(), "tmpfs", 0, "size=2m") != 0) {
        return kSkip;
      }
      std::filesystem::copy(kept, job,
                            std::filesystem::copy_options::recursive);
      const std::string filler = job + "/filler";
      const int fd = open(filler.c_str(), O_CREAT | O_WRONLY, 0600);
      // Until nothing fits, then as much back as the case leaves free.
      const std::string page(4096, 'x');
      int64_t size = 0;
      while (write(fd, page.data(), page.size()) == 4096) size += 4096;
      if (ftruncate(fd, size - free_kib * 1024) != 0) return 4;
      close(fd);
      bool saw_it = false;
      const int result = Run(s, [&](JobStore& store) {
        WaitFor([&] {
          const auto now = store.Get("plan-1");
          saw_it = now->detail.starts_with("waiting: ");
          return saw_it || now->finished();
        });
        std::filesystem::remove(filler);
      });
      if (result != 0) return result;
      if (Weights(s) != want) return 5;
      return saw_it ? 6 : 0;
    });
    if (code == kSkip) GTEST_SKIP() << "no user namespace with a tmpfs here";
    EXPECT_TRUE(code == 0 || code == 6) << code;
    waited += code == 6;
  }
  EXPECT_GE(waited, 3);
  EXPECT_LT(waited, 7);
}

}  // namespace
}  // namespace motet::node
