// SPDX-License-Identifier: Apache-2.0
#include "tests/boxes/include_rule.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>

namespace motet::boxes {
namespace {

using Names = std::set<std::string>;

// The arrows: a box, and the boxes whose headers it may include besides its
// own.
const std::map<std::string, Names>& Arrows() {
  static const auto* arrows = new std::map<std::string, Names>{
      {"proto", {}},
      {"compose/math", {}},
      {"compose/model", {"compose/math", "proto/plain"}},
      {"compose/package",
       {"compose/math", "compose/model", "proto/plain", "proto"}},
      {"compose/learn",
       {"compose/math", "compose/model", "compose/package", "proto/plain"}},
      {"compose/assemble",
       {"compose/math", "compose/model", "compose/package", "compose/learn",
        "proto", "proto/plain"}},
      {"compose/retrieve",
       {"compose/math", "compose/model", "compose/package", "compose/learn",
        "compose/assemble", "proto", "proto/plain"}},
      {"compose/measure",
       {"compose/math", "compose/model", "compose/package", "compose/learn",
        "compose/assemble", "compose/retrieve", "proto", "proto/plain"}},
      {"registry", {"proto", "proto/plain"}},
      {"node",
       {"compose/math", "compose/model", "compose/package", "compose/learn",
        "compose/measure", "compose/retrieve", "registry/client", "proto",
        "proto/plain"}},
      {"coordinator",
       {"compose/math", "compose/model", "compose/package", "compose/learn",
        "compose/assemble", "compose/measure", "compose/retrieve",
        "registry/client", "proto", "proto/plain"}},
  };
  return *arrows;
}

// Headers that need abseil alone: the engine may use them.
const Names& PlainHeaders() {
  static const auto* plain =
      new Names{"proto/error.h", "proto/files.h", "proto/limits.h"};
  return *plain;
}

// Outside headers that only some files may see.
struct Outside {
  const char* pattern;   // of the included name
  const char* allowed;   // of the including path
};
constexpr Outside kOutside[] = {
    {R"(^rocksdb/)", R"(^(registry/rocks_store|compose/retrieve/text_store))"},
    {R"(^faiss/)", R"(^compose/retrieve/)"},
    {R"(^(grpc|grpcpp)/|\.grpc\.pb\.h$)", R"(^(proto|registry|node|coordinator)/)"},
    {R"(^google/protobuf|\.pb\.h$)",
     R"(^(proto|registry|node|coordinator|compose/(assemble|measure|package|retrieve))/)"},
    {R"(^openssl/)", R"(^proto/)"},
    {R"(^dnnl|^oneapi/)", R"(^compose/math/)"},
    {R"(^boost/)", R"(^coordinator/)"},
    {R"(^absl/)", R"(^(?!compose/math/))"},
    {R"(^(cuda|cublas))", R"(^compose/math/cuda/)"},
};

// The engine-only build leaves these out (compose/CMakeLists.txt).
bool IsManifestFile(const std::string& path) {
  return path.find("manifest") != std::string::npos ||
         path.find("package_folder") != std::string::npos;
}

std::string TargetOf(const std::string& include) {
  if (PlainHeaders().contains(include)) return "proto/plain";
  if (include.starts_with("registry/client")) return "registry/client";
  return BoxOf(include);
}

}  // namespace

std::string BoxOf(const std::string& path) {
  std::string best;
  for (const auto& [box, unused] : Arrows()) {
    if (path.starts_with(box + "/") && box.size() > best.size()) best = box;
  }
  return best;
}

std::vector<std::string> Forbidden(const std::string& path,
                                   const std::string& text) {
  static const std::regex kInclude(R"re(^\s*#\s*include\s*[<"]([^>"]+)[>"])re");
  const std::string box = BoxOf(path);
  std::vector<std::string> complaints;
  if (box.empty()) return complaints;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::smatch match;
    if (!std::regex_search(line, match, kInclude)) continue;
    const std::string include = match[1];
    const auto complain = [&](const std::string& who) {
      complaints.push_back(path + ":" + std::to_string(number) + " includes " +
                           include + ": " + who + " may not");
    };
    const std::string target = TargetOf(include);
    const bool own = target == box ||
                     (box == "registry" && target == "registry/client") ||
                     (box == "proto" && target == "proto/plain");
    if (!target.empty() && !own && !Arrows().at(box).contains(target)) {
      complain(box);
      continue;
    }
    if (box == "compose/package" && target == "proto" &&
        !IsManifestFile(path)) {
      complain("an engine-only file");
      continue;
    }
    for (const Outside& rule : kOutside) {
      if (std::regex_search(include, std::regex(rule.pattern)) &&
          !std::regex_search(path, std::regex(rule.allowed))) {
        complain(path);
      }
    }
    if (path.ends_with(".cu") && std::regex_search(
            include, std::regex(R"(^(absl|grpc|google/protobuf)|\.pb\.h$)"))) {
      complain("a .cu file");
    }
  }
  return complaints;
}

}  // namespace motet::boxes
