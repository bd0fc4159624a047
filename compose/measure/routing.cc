// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/routing.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "compose/math/exec.h"
#include "compose/measure/perplexity.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

constexpr int64_t kBatchTokens = 1024;

int64_t Count(math::ExpertMask set) {
  return std::popcount(static_cast<uint64_t>(set)) +
         std::popcount(static_cast<uint64_t>(set >> 64));
}
bool Has(math::ExpertMask set, int64_t e) { return (set >> e & 1) != 0; }

// How often each expert is used by tokens [begin, end).
std::vector<int64_t> UsesBetween(const Uses& uses, int64_t begin, int64_t end,
                                 int64_t experts) {
  std::vector<int64_t> count(static_cast<size_t>(experts));
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t e = 0; e < experts; ++e) {
      count[static_cast<size_t>(e)] += Has(uses[static_cast<size_t>(t)], e);
    }
  }
  return count;
}

}  // namespace

std::vector<double> ShareOfTokens(std::span<const Uses> sequences,
                                  int64_t experts) {
  std::vector<double> share(static_cast<size_t>(experts));
  double tokens = 0;
  for (const Uses& uses : sequences) {
    const auto n = static_cast<int64_t>(uses.size());
    const auto count = UsesBetween(uses, 0, n, experts);
    for (size_t e = 0; e < share.size(); ++e) {
      share[e] += static_cast<double>(count[e]);
    }
    tokens += static_cast<double>(n);
  }
  for (double& s : share) s = tokens > 0 ? s / tokens : 0;
  return share;
}

double Entropy(std::span<const double> share) {
  double sum = 0, entropy = 0;
  for (const double s : share) sum += s;
  for (const double s : share) {
    if (s > 0) entropy -= s / sum * std::log2(s / sum);
  }
  return entropy;
}

double SegmentF1(std::span<const Uses> sequences, int64_t experts,
                 int64_t m) {
  MOTET_CHECK(m >= 1);
  // By how many of a segment's tokens an expert is used: how often that was.
  std::vector<int64_t> times(static_cast<size_t>(m) + 1);
  for (const Uses& uses : sequences) {
    const auto n = static_cast<int64_t>(uses.size());
    for (int64_t at = 0; at + m <= n; at += m) {
      for (const int64_t c : UsesBetween(uses, at, at + m, experts)) {
        ++times[static_cast<size_t>(c)];
      }
    }
  }
  int64_t used = 0;
  for (int64_t c = 1; c <= m; ++c) used += c * times[static_cast<size_t>(c)];
  if (used == 0) return NAN;
  double best = 0;
  int64_t hits = 0, foretold = 0;
  for (int64_t c = m; c >= 1; --c) {  // alpha = c / m
    hits += c * times[static_cast<size_t>(c)];
    foretold += m * times[static_cast<size_t>(c)];
    if (foretold == 0) continue;
    best = std::max(best, 2.0 * static_cast<double>(hits) /
                              static_cast<double>(foretold + used));
  }
  return best;
}

double CacheHitRate(std::span<const Uses> sequences, int64_t experts,
                    int64_t capacity, int64_t m) {
  MOTET_CHECK(capacity >= 1 && m >= 1);
  int64_t hits = 0, used = 0;
  for (const Uses& uses : sequences) {
    const auto n = static_cast<int64_t>(uses.size());
    math::ExpertMask cache = 0;
    for (int64_t t = 0; t < n; ++t) {
      const math::ExpertMask now = uses[static_cast<size_t>(t)];
      used += Count(now);
      hits += Count(now & cache);
      cache |= now;
      if (Count(cache) <= capacity) continue;
      const auto next =
          UsesBetween(uses, t + 1, std::min(n, t + 1 + m), experts);
      while (Count(cache) > capacity) {
        int64_t out = -1;
        for (int64_t e = 0; e < experts; ++e) {
          if (!Has(cache, e)) continue;
          const auto worth = [&](int64_t i) {
            return std::make_pair(next[static_cast<size_t>(i)], Has(now, i));
          };
          if (out < 0 || worth(e) < worth(out)) out = e;
        }
        cache &= ~(math::ExpertMask{1} << out);
      }
    }
  }
  return used == 0 ? NAN : static_cast<double>(hits) / used;
}

namespace {

// What one layer did with a domain.
struct LayerTrace {
  std::vector<Uses> sequences;
  std::vector<double> weight;  // [E], sums
};

// Adds the choices of a batch's sequences.
void AddChoices(const math::Routing& routing, const model::Batch& batch,
                bool anchored, LayerTrace& trace) {
  const int64_t k = routing.idx.cols();
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    Uses uses;
    const int64_t first = batch.first_row(s);
    const auto rows = static_cast<int64_t>(batch.sequences()[s].ids.size());
    for (int64_t row = first; row < first + rows; ++row) {
      math::ExpertMask used = 0;
      for (int64_t i = 0; i < k; ++i) {
        const int32_t e = routing.idx.i32()[row * k + i];
        if (e < 0) continue;
        used |= math::ExpertMask{1} << e;
        trace.weight[static_cast<size_t>(e)] += routing.w.f32()[row * k + i];
      }
      uses.push_back(anchored && used != 1 ? used & ~math::ExpertMask{1}
                                           : used);
    }
    trace.sequences.push_back(std::move(uses));
  }
}

LayerRouting Summarise(LayerTrace trace, int64_t tokens, bool anchored,
                       int64_t capacity, int64_t segment) {
  const auto experts = static_cast<int64_t>(trace.weight.size());
  LayerRouting layer;
  layer.share = ShareOfTokens(trace.sequences, experts);
  layer.entropy = Entropy(layer.share);
  for (const double sum : trace.weight) {
    layer.weight.push_back(sum / static_cast<double>(tokens));
  }
  if (anchored) {
    for (Uses& uses : trace.sequences) {
      for (math::ExpertMask& used : uses) used &= ~math::ExpertMask{1};
    }
  }
  layer.srp = SegmentF1(trace.sequences, experts, segment);
  layer.sch = CacheHitRate(trace.sequences, experts, capacity, segment);
  return layer;
}

absl::Status CheckFloors(const Domain& domain, int64_t tokens) {
  const auto documents = static_cast<int64_t>(
      std::count_if(domain.documents.begin(), domain.documents.end(),
                    [](const std::string& text) { return !text.empty(); }));
  if (tokens >= kRoutingTokens && documents >= kRoutingDocuments) {
    return absl::OkStatus();
  }
  return proto::Invalid(
      absl::StrCat("domain ", domain.name),
      absl::StrCat(tokens, " tokens of ", documents, " documents"),
      absl::StrCat("at least ", kRoutingTokens, " of ", kRoutingDocuments),
      "give more text: what little text chooses reveals it");
}

}  // namespace

absl::StatusOr<RoutingReport> MeasureRouting(
    const assemble::ServedModel& model, const std::vector<std::string>& labels,
    const std::vector<Domain>& domains, const RoutingOptions& options) {
  if (model.decoder == nullptr) {
    return proto::Error(absl::StatusCode::kFailedPrecondition, "routing",
                        absl::StrCat(model.name, ", an ensemble"),
                        "a model whose tokens go to experts",
                        "an ensemble weighs whole models: `motet eval matrix` "
                        "shows what each of them knows");
  }
  const model::Decoder& decoder = *model.decoder;
  const int64_t experts = decoder.config().experts;
  if (experts == 0) {
    return proto::Error(absl::StatusCode::kFailedPrecondition, "routing",
                        absl::StrCat(model.name, ", a dense model"),
                        "one with experts");
  }
  if (options.window > decoder.config().max_positions) {
    return proto::Invalid("--window", absl::StrCat(options.window),
                          absl::StrCat("at most the model's context of ",
                                       decoder.config().max_positions));
  }
  const bool anchored =
      decoder.router().kind == model::Router::Kind::kAnchored;
  const int64_t k = anchored ? 1 : std::min(decoder.router().k, experts);
  RoutingReport report;
  report.model = model.name;
  report.router = anchored ? "anchored" : "topk";
  report.experts = labels;
  report.segment = options.segment;
  report.cache_experts = std::max<int64_t>(
      1, std::llround(options.cache * static_cast<double>(k)));

  for (size_t d = 0; d < domains.size(); ++d) {
    const DocumentWindows text(model.tokenizer(), domains[d].documents,
                               options.window);
    const auto& windows = text.windows();
    DomainRouting domain;
    domain.name = domains[d].name;
    domain.documents = static_cast<int64_t>(domains[d].documents.size());
    domain.tokens = text.tokens();
    MOTET_RETURN_IF_ERROR(CheckFloors(domains[d], domain.tokens));
    for (const auto& ids : windows) {
      MOTET_RETURN_IF_ERROR(CheckIds(ids, decoder.config().vocabulary));
    }
    std::vector<LayerTrace> traces(
        static_cast<size_t>(decoder.config().layers));
    for (LayerTrace& trace : traces) {
      trace.weight.resize(static_cast<size_t>(experts));
    }
    math::Arena arena;
    int64_t done = 0;
    for (size_t next = 0; next < windows.size();) {
      std::vector<model::SequenceInput> inputs;
      int64_t rows = 0;
      do {
        rows += static_cast<int64_t>(windows[next].size());
        inputs.push_back({windows[next++], nullptr, options.allowed});
      } while (next < windows.size() && rows < kBatchTokens);
      arena.Reset();
      math::Exec exec(math::Cpu(), arena, options.product);
      const model::Batch batch(inputs);
      model::Trace trace;
      trace.visit = [&](int64_t layer) {
        AddChoices(trace.routing[0], batch, anchored,
                   traces[static_cast<size_t>(layer)]);
      };
      decoder.Forward(exec, batch, &trace);
      done += rows;
      if (options.progress) {
        options.progress((static_cast<double>(d) +
                          static_cast<double>(done) / domain.tokens) /
                             static_cast<double>(domains.size()),
                         domain.name);
      }
    }
    for (LayerTrace& trace : traces) {
      domain.layers.push_back(Summarise(std::move(trace), domain.tokens,
                                        anchored, report.cache_experts,
                                        options.segment));
    }
    report.domains.push_back(std::move(domain));
  }
  return report;
}

}  // namespace motet::measure
