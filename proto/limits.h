// SPDX-License-Identifier: Apache-2.0
// Every limit on what comes from outside, once, with its unit. Parsers and
// services read them here and nowhere else.
#pragma once

#include <cstdint>

namespace motet::proto {

inline constexpr int64_t kMaxChunkBytes = int64_t{1} << 20;
inline constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxSignatureBytes = int64_t{1} << 20;
inline constexpr int64_t kMaxPackageFiles = 64;
inline constexpr int64_t kMaxPathBytes = 255;
inline constexpr int64_t kMaxPackageBytes = int64_t{1} << 40;
inline constexpr int64_t kMaxSafetensorsHeaderBytes = int64_t{100} << 20;
inline constexpr int64_t kMaxTensors = 1 << 20;
inline constexpr int64_t kMaxIdLength = 200;
inline constexpr int64_t kMaxRpcMessageBytes = int64_t{16} << 20;
inline constexpr int64_t kMaxStatusMessageBytes = 2 << 10;
inline constexpr int64_t kMaxListPage = 1000;
inline constexpr int64_t kMaxHttpBodyBytes = int64_t{4} << 20;
inline constexpr int64_t kMaxHttpHeaderBytes = 16 << 10;
inline constexpr int64_t kMaxCertificateBytes = 64 << 10;
inline constexpr int64_t kMaxRecipeBytes = 1 << 20;
inline constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxConfigBytes = 1 << 20;
inline constexpr int64_t kMaxAnchorBytes = int64_t{4} << 30;
inline constexpr int64_t kMaxDocumentBytes = int64_t{16} << 20;
// Of one request to encode or to search.
inline constexpr int64_t kMaxRequestTexts = 2048;
inline constexpr int64_t kMaxTextBytes = int64_t{1} << 20;
inline constexpr int64_t kMaxFoundDocuments = 10000;

}  // namespace motet::proto
