// SPDX-License-Identifier: Apache-2.0
// The boxes of docs/architecture.md, with arrows only in the allowed
// direction; and the rule itself, on files that break it.
#include "tests/boxes/include_rule.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::boxes {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(IncludeRule, HoldsInTheTree) {
  const std::filesystem::path root = std::getenv("MOTET_SOURCE");
  int files = 0;
  std::vector<std::string> all;
  for (const char* top :
       {"proto", "compose", "registry", "node", "coordinator"}) {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" &&
          extension != ".inl") {
        continue;
      }
      std::ifstream in(entry.path());
      std::stringstream text;
      text << in.rdbuf();
      const std::string path =
          std::filesystem::relative(entry.path(), root).string();
      EXPECT_NE(BoxOf(path), "") << path << " belongs to no box";
      for (std::string& line : Forbidden(path, text.str())) {
        all.push_back(std::move(line));
      }
      ++files;
    }
  }
  EXPECT_GT(files, 80);
  EXPECT_THAT(all, IsEmpty());
}

TEST(IncludeRule, RefusesForbiddenArrows) {
  const auto refused = [](const char* path, const char* include) {
    return Forbidden(path, std::string("#include \"") + include + "\"\n");
  };
  EXPECT_THAT(refused("node/daemon.cc", "coordinator/cli.h"), SizeIs(1));
  EXPECT_THAT(refused("coordinator/cli.cc", "node/policy.h"), SizeIs(1));
  EXPECT_THAT(refused("registry/service.cc", "compose/model/config.h"),
              SizeIs(1));
  EXPECT_THAT(refused("compose/math/arena.cc", "compose/model/config.h"),
              SizeIs(1));
  EXPECT_THAT(refused("compose/math/arena.cc", "absl/status/status.h"),
              SizeIs(1));
  EXPECT_THAT(refused("compose/model/decoder.cc", "compose/learn/tape.h"),
              SizeIs(1));
  EXPECT_THAT(refused("compose/learn/tape.cc", "proto/digest.h"), SizeIs(1));
  EXPECT_THAT(refused("node/publish.cc", "registry/store.h"), SizeIs(1));
  EXPECT_THAT(refused("proto/digest.cc", "registry/client.h"), SizeIs(1));
  EXPECT_THAT(refused("registry/service.cc", "rocksdb/db.h"), SizeIs(1));
  EXPECT_THAT(refused("compose/retrieve/index.cc", "rocksdb/db.h"), SizeIs(1));
  EXPECT_THAT(refused("compose/measure/retrieval.cc", "faiss/Index.h"),
              SizeIs(1));
  EXPECT_THAT(refused("compose/learn/corpus.cc", "compose/retrieve/beir.h"),
              SizeIs(1));
}

TEST(IncludeRule, AllowsTheArrowsOfTheDesign) {
  EXPECT_THAT(Forbidden("node/publish.cc", "#include \"registry/client.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Forbidden("compose/learn/corpus.cc",
                        "#include \"proto/error.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Forbidden("registry/rocks_store.cc",
                        "#include <rocksdb/db.h>\n"),
              IsEmpty());
}

TEST(IncludeRule, NamesTheLine) {
  EXPECT_THAT(Forbidden("node/a.cc", "\n#include \"coordinator/cli.h\"\n"),
              ElementsAre("node/a.cc:2 includes coordinator/cli.h: node may "
                          "not"));
}

}  // namespace
}  // namespace motet::boxes
