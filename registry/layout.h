// SPDX-License-Identifier: Apache-2.0
// The data folder's layout, version 1: the file that names it and the bytes of
// every key. docs/registry.md is this in prose. Whoever changes a key changes
// the version.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"

namespace motet::registry {

// Makes the file "layout" in an empty folder, or checks the one that is there.
// Called before the database is touched. FailedPrecondition: another version,
// or a folder that holds something else.
absl::Status CheckLayout(const std::string& folder);

// 8 bytes, so that keys sort as numbers do.
std::string BigEndianBytes(uint64_t value);
uint64_t BigEndian(absl::string_view bytes);

// Column family "manifests". A letter in front leaves room for others.
std::string SummaryKey(absl::string_view id);  // record without chunk lists
std::string FilesKey(absl::string_view id);    // its files, chunk lists too

// Column family "chunks": the 32 bytes of the digest.

// Column family "indexes".
std::string ManifestKey(const proto::Digest& sha256);  // -> package id
std::string PresenceKey(const proto::Digest& sha256);  // -> mark, 8 bytes
// The mark of a chunk that a committed record names; any other is the time of
// the last put or question, in microseconds since 1970.
inline constexpr uint64_t kPublishedMark = 0;

// Column family "log". "n" + level (1 byte) + index (8) is kept for the nodes
// of the Merkle tree over these entries, "s" + size (8) for its checkpoints.
std::string LogKey(uint64_t index);  // -> LogEntry, the leaf's bytes

}  // namespace motet::registry
