// SPDX-License-Identifier: Apache-2.0
// Which experts answer what: shares, entropy, and how local in time the
// choices are, by layer and domain. Routing traces reveal text, so nothing
// finer than a domain's aggregate leaves this file, and none of a domain
// with too little text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/served_model.h"
#include "compose/measure/matrix.h"

namespace motet::measure {

// The experts that answer each token of one sequence, at one layer.
using Uses = std::vector<math::ExpertMask>;

// Share of all tokens that use each expert: [E].
std::vector<double> ShareOfTokens(std::span<const Uses> sequences,
                                  int64_t experts);

//   H = - sum_e q_e log2 q_e,   q = share / sum share        bits
// log2 E when all experts are used alike, 0 when one does everything.
double Entropy(std::span<const double> share);

// Segment routing best performance [METHODS 10, SRP]: how well a fixed group
// of experts serves m consecutive tokens.
//   SRP = max over alpha of F1(used by >= alpha m of the segment's m tokens,
//                              used by the token)
// with F1 over all pairs of token and expert, alpha = 1/m, 2/m, .., 1, and
// segments that follow one another; tokens left at a sequence's end that fill
// none do not count. 1: each segment has its experts; NaN: no whole segment,
// or no use. m: >= 1.
double SegmentF1(std::span<const Uses> sequences, int64_t experts, int64_t m);

// Segment cache hit rate [METHODS 10, SCH]: the share of uses that find their
// expert in a cache of `capacity` experts, empty at each sequence's start. A
// token's experts are all brought in, then what is too much is evicted: those
// that the next m tokens use least, of these ones that the token did not use,
// of these the lowest. NaN: no use. capacity, m: >= 1.
double CacheHitRate(std::span<const Uses> sequences, int64_t experts,
                    int64_t capacity, int64_t m);

struct LayerRouting {
  std::vector<double> share;   // [E], of tokens
  std::vector<double> weight;  // [E], mean router weight over all tokens
  double entropy = 0;          // bits
  double srp = 0, sch = 0;
};
struct DomainRouting {
  std::string name;
  int64_t documents = 0, tokens = 0;
  std::vector<LayerRouting> layers;
};
struct RoutingReport {
  std::string model, router;
  std::vector<std::string> experts;  // labels, [E]
  int64_t segment = 0, cache_experts = 0;
  std::vector<DomainRouting> domains;
};

inline constexpr int64_t kRoutingTokens = 1024;   // of a domain, at least
inline constexpr int64_t kRoutingDocuments = 8;

struct RoutingOptions {
  int64_t window = 256;
  int64_t segment = 16;  // m
  double cache = 2;      // rho: the cache holds rho k experts, rounded, >= 1
  math::ExpertMask allowed = ~math::ExpertMask{0};
  math::Product product = math::Product::kExact;
  std::function<void(double fraction, const std::string& detail)> progress;
};
// Documents by themselves in windows. Under the anchored router a token uses
// the one expert that was chosen beside the base, or the base where it
// answers alone; the base is always there, so SRP and SCH leave it out and
// k = 1. labels: [E]. FailedPrecondition: a dense model. InvalidArgument: a
// domain below the floors.
absl::StatusOr<RoutingReport> MeasureRouting(
    const assemble::ServedModel& model, const std::vector<std::string>& labels,
    const std::vector<Domain>& domains, const RoutingOptions& options);

std::string RoutingJson(const RoutingReport& report);
// domain,layer,expert,share,weight,entropy,srp,sch: a line a cell.
std::string RoutingCsv(const RoutingReport& report);
// A heat map a domain: layers down, experts across, darker the more tokens.
std::string RoutingSvg(const RoutingReport& report);

}  // namespace motet::measure
