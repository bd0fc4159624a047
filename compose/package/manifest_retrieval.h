// SPDX-License-Identifier: Apache-2.0
// What encoders, their adapters and owners' pilots must be (METHODS 9): the
// rules of the three kinds beyond the table's row, each as reasons.
#pragma once

#include <string>
#include <vector>

#include "compose/model/encoder_config.h"
#include "manifest.pb.h"

namespace motet::package {

inline constexpr char kEncoder[] = "encoder";
inline constexpr char kEmbeddingAdapter[] = "embedding_adapter";
inline constexpr char kPilots[] = "pilots";
inline constexpr char kPilotsTensor[] = "pilots";
inline constexpr int kMaxPilotExperts = 4096;

// manifest.adapter and manifest.pilots: there of their kinds alone, and what
// they say.
void CheckRetrievalRecords(const v1::ExpertManifest& manifest,
                           std::vector<std::string>& reasons);
// The tensor table: of pilots one tensor, a row a group; of adapters pairs of
// the rank; of encoders whatever LoadEncoder takes.
void CheckRetrievalTensors(const v1::ExpertManifest& manifest,
                           std::vector<std::string>& reasons);
// The folder of such a package: an encoder loads and is of the shape that the
// manifest says, an adapter's config says what the manifest does, pilots are
// finite.
std::vector<std::string> CheckRetrievalFiles(const v1::ExpertManifest& manifest,
                                             const std::string& folder);
// An adapter against the encoder it is for: its targets are maps of it, and
// every tensor is there in its shape.
std::vector<std::string> CheckAdapterOn(const std::string& adapter_folder,
                                        const std::string& encoder_folder);

// What manifest.model says of an encoder.
v1::ModelShape ShapeOfEncoder(const model::EncoderConfig& config);

}  // namespace motet::package
