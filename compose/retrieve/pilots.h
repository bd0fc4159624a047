// SPDX-License-Identifier: Apache-2.0
// The numbers of RouterRetriever (METHODS 9): pilots, which are means of the
// base's vectors of an owner's queries, grouped by the expert that ranks best
// for them; and the routing of a query among the experts that pilots are of.
// What a routing says of a query does not depend on other queries, nor on
// pilots that are not in it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace motet::retrieve {

struct PilotOptions {
  int64_t min_queries = 20;  // smaller groups are withheld
  double noise = 0;          // standard deviation added to every number
  uint64_t seed = 0;         // of the noise
  // The owner's own expert. Several often rank a query equally well: it goes
  // to this one, if it is among them, else to the first. -1: to the first.
  int own = -1;
};
struct PilotGroup {
  int expert = 0;  // of those that were scored, from 0
  int64_t queries = 0;
  std::vector<float> mean;  // [C]
  double gate = -1;         // SetGates
};
struct MadePilots {
  std::vector<PilotGroup> groups;  // by expert
  int64_t withheld = 0;            // groups below the floor
  int64_t scorings = 0;            // Q E
};
// The best expert for each query, [Q]. scores: [Q,E].
std::vector<int> BestExperts(std::span<const double> scores, int64_t experts,
                             int own);
// One pilot of each expert that is best for enough queries.
//   best_q = argmax_e score_qe, ties as PilotOptions::own says
//   p_e = mean {v_q: best_q = e}
//                                                              [2409.02685 §3]
// scores: [Q,E]. vectors: [Q,C], of the base.
MadePilots MakePilots(std::span<const double> scores,
                      std::span<const float> vectors, int64_t experts,
                      int64_t width, const PilotOptions& options);

// How far from its pilot a group reaches: the gate is the cosine to it that
// `share` of the group's queries stay below.
//   gate_e = quantile_share {cos(v_q, p_e): best_q = e}
// Of the pilots as they are by then, with their noise. Arguments as
// MakePilots'; 0 <= share < 1.
inline constexpr double kGateShare = 0.1;
void SetGates(std::span<const double> scores, std::span<const float> vectors,
              int64_t experts, int64_t width, int own, double share,
              MadePilots& made);

enum class Similarity : uint8_t { kDot, kCosine };
// kWeighted: the mean over the queries behind the pilots.
enum class Aggregate : uint8_t { kMean, kMax, kWeighted };

// Sends queries to experts.
//   score_e = mean (or max) over e's pilots of sim(query, pilot)
//   weighted: sum n_p sim(query, p) / sum n_p, where a pilot stands for n_p
//   queries: a group that an expert won by luck in a foreign domain weighs
//   little
//   argmax_e, ties to the lowest e                             [2409.02685 §3]
// Gated, which is Motet's own: a query that no pilot's gate lets in is
// nobody's, cos(query, p) < gate_p for all p; fewer pilots never let in more.
// Differs from the authors' code, which takes the maximum: "max" is an option.
class PilotRouter {
 public:
  // pilots: [N,C]. experts: [N], whose each is, from 0. A pilot without
  // length is as far as can be from everything by cosine: similarity 0.
  // queries: [N], behind each pilot; needed by kWeighted alone.
  // gates: [N], cosines; empty: every query goes to an expert.
  PilotRouter(std::vector<float> pilots, std::vector<int> experts,
              int64_t width, Similarity similarity, Aggregate aggregate,
              std::vector<int64_t> queries = {},
              std::vector<double> gates = {});

  struct Score {
    int expert = 0;
    double score = 0;
  };
  // Of every expert with a pilot, ascending. query: [C].
  std::vector<Score> Scores(std::span<const float> query) const;
  // Whether a gate lets it in, or there are none. query: [C].
  bool LetsIn(std::span<const float> query) const;
  // The expert for each query, -1 where nobody has a pilot or no gate lets it
  // in. queries: [Q,C].
  std::vector<int> Route(std::span<const float> queries) const;
  int64_t pilots() const { return static_cast<int64_t>(experts_.size()); }

 private:
  std::vector<float> pilots_;
  std::vector<int> experts_;
  std::vector<int64_t> queries_;
  int64_t width_;
  Similarity similarity_;
  Aggregate aggregate_;
  std::vector<double> gates_;
  std::vector<double> lengths_;  // of the pilots, where cosines are asked for
};

}  // namespace motet::retrieve
