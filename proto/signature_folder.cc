// SPDX-License-Identifier: Apache-2.0
// A package folder against its model.sig: exactly the signed files, each with
// the signed bytes. Links and devices are refused, since what they lead to
// can change without the folder changing.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "proto/signature.h"
#include "proto/signature_layout.h"

namespace motet::proto {
namespace {

constexpr int kMaxDepth = 8;

// Everything that lies in the folder, by relative path, with its size.
struct Listing {
  std::map<std::string, int64_t> files;
  std::vector<std::string> refused;  // neither files nor folders
  int64_t entries = 0;
};

absl::Status Walk(const std::string& folder, const std::string& prefix,
                  int depth, Listing& listing) {
  if (depth > kMaxDepth) {
    return Invalid("signature",
                   absl::StrCat("folders nested deeper than ", kMaxDepth),
                   "a package folder");
  }
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         ListDirectory(absl::StrCat(folder, "/", prefix)));
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(prefix, name);
    // Twice the limit: enough to name what is too much, not all of it.
    if (++listing.entries > 2 * kMaxPackageFiles) {
      return Error(absl::StatusCode::kResourceExhausted, "signature",
                   absl::StrCat("more than ", 2 * kMaxPackageFiles,
                                " entries in ", folder),
                   absl::StrCat("at most ", kMaxPackageFiles, " files"),
                   "keep a package's files alone in its folder");
    }
    struct stat st;
    if (lstat(absl::StrCat(folder, "/", path).c_str(), &st) != 0) {
      return Error(absl::ErrnoToStatusCode(errno), "signature",
                   absl::StrCat("\"", strerror(errno), "\" for ", path),
                   "a file that can be read");
    }
    if (S_ISDIR(st.st_mode)) {
      MOTET_RETURN_IF_ERROR(
          Walk(folder, absl::StrCat(path, "/"), depth + 1, listing));
    } else if (S_ISREG(st.st_mode)) {
      listing.files[path] = st.st_size;
    } else {
      listing.refused.push_back(path);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SignatureInfo> VerifyPackageFolder(
    const std::string& folder, const std::string& authority_pem,
    int64_t when) {
  Listing listing;
  MOTET_RETURN_IF_ERROR(Walk(folder, "", 0, listing));
  if (listing.files.erase(kSignatureFile) == 0) {
    return Error(absl::StatusCode::kNotFound, "signature",
                 absl::StrCat("no regular file model.sig in ", folder),
                 "a signed package", "fetch or sign the package again");
  }
  MOTET_ASSIGN_OR_RETURN(
      const std::string model_sig,
      ReadFile(absl::StrCat(folder, "/", kSignatureFile), kMaxSignatureBytes));
  MOTET_ASSIGN_OR_RETURN(
      SignatureInfo info,
      VerifySignature(model_sig, authority_pem, when));
  std::vector<std::string> defects;
  for (const std::string& path : listing.refused) {
    defects.push_back(absl::StrCat(path, " is a link or device"));
  }
  int64_t total = 0;
  for (const auto& [path, size] : listing.files) total += size;
  if (total > kMaxPackageBytes) {
    defects.push_back(absl::StrCat(total, " bytes in all"));
  }
  for (const SignedFile& file : info.files) {
    if (listing.files.erase(file.path) == 0) {
      defects.push_back(absl::StrCat(file.path, " is missing"));
      continue;
    }
    if (total > kMaxPackageBytes) continue;
    MOTET_ASSIGN_OR_RETURN(
        const Digest digest,
        Sha256File(absl::StrCat(folder, "/", file.path)));
    if (digest != file.sha256) {
      defects.push_back(absl::StrCat(file.path, " is changed: ", Hex(digest),
                                     " instead of ", Hex(file.sha256)));
    }
  }
  for (const auto& [path, size] : listing.files) {
    defects.push_back(absl::StrCat(path, " is not signed"));
  }
  if (defects.empty()) return info;
  return Error(absl::StatusCode::kDataLoss, "signature",
               absl::StrCat(folder, " with ", defects.size(), " defect",
                            defects.size() == 1 ? "" : "s", " (",
                            absl::StrJoin(defects, "; "), ")"),
               absl::StrCat("exactly the files that ", info.name,
                            " was signed with"),
               "do not use the folder; fetch the package again");
}

}  // namespace motet::proto
