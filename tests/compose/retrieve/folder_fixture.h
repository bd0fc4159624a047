// SPDX-License-Identifier: Apache-2.0
// A test with a folder of its own, named after it and gone behind it.
#pragma once

#include <filesystem>
#include <string>

#include "gtest/gtest.h"

namespace motet::retrieve {

class FolderTest : public ::testing::Test {
 protected:
  FolderTest() {
    const ::testing::TestInfo& test =
        *::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = ::testing::TempDir() + test.test_suite_name() + "_" + test.name();
    std::filesystem::remove_all(folder_);
  }
  ~FolderTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

}  // namespace motet::retrieve
