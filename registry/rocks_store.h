// SPDX-License-Identifier: Apache-2.0
// The store on disk (registry/store.h), in one RocksDB database. No RocksDB
// type appears here; rocks_store.cc is the only file that includes it.
// docs/registry.md describes the layout byte for byte.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "registry/store.h"

namespace motet::registry {

struct RocksOptions {
  // PutChunk answers ResourceExhausted when the file system has less free
  // space than this, in bytes. Commits and revocations may use the rest: a
  // disk filled by uploads must not stop a revocation, and opening the
  // database again writes what its log holds to files once more.
  int64_t reserve_bytes = int64_t{256} << 20;
};

// Opens the data folder, or makes one where there is nothing or an empty
// folder. One process at a time: Unavailable while another has it open.
// FailedPrecondition: the folder is of a layout that this program does not
// know, or holds something else; nothing in it is touched then.
absl::StatusOr<std::unique_ptr<Store>> OpenRocksStore(
    const std::string& folder, const RocksOptions& options = {});

}  // namespace motet::registry
