// SPDX-License-Identifier: Apache-2.0
// Runs decoders over windows in batches and reduces their router inputs.
// Products are kExact and every sum runs over tokens in window order, so the
// numbers depend neither on the batch size nor on the thread count.
#include "compose/learn/statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/cholesky.h"
#include "compose/math/arena.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::Tensor;

constexpr int64_t kBatchTokens = 2048;
// Router inputs of a first pass are kept for the second when all of them fit
// in here; else the second pass runs the decoder again.
constexpr int64_t kKeepBytes = int64_t{640} << 20;

// Router inputs [rows,C] of consecutive whole windows in one layer; layers
// ascend within a batch.
using Visit = std::function<void(size_t layer, const Tensor& inputs)>;

int64_t WindowCount(const TokenWindows& windows, int64_t max_tokens) {
  return std::min(windows.count(),
                  std::max<int64_t>(1, max_tokens / windows.window()));
}

absl::Status CheckWindows(const model::Decoder& decoder,
                          const TokenWindows& windows) {
  if (windows.count() == 0) {
    return proto::Invalid(
        "statistics", absl::StrCat("text of ", windows.tokens(), " tokens"),
        absl::StrCat("at least one window of ", windows.window()),
        "add documents or shorten the windows");
  }
  const int64_t positions = decoder.config().max_positions;
  if (positions > 0 && windows.window() > positions) {
    return proto::Invalid(
        "statistics", absl::StrCat("windows of ", windows.window(), " tokens"),
        absl::StrCat("at most the model's ", positions),
        "shorten the windows");
  }
  return absl::OkStatus();
}

void ForEachBatch(const model::Decoder& decoder, const TokenWindows& windows,
                  int64_t count, const Visit& visit) {
  const int64_t step =
      std::max<int64_t>(1, kBatchTokens / windows.window());
  math::Arena arena;
  for (int64_t first = 0; first < count; first += step) {
    arena.Reset();
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    std::vector<model::SequenceInput> inputs;
    for (int64_t i = first; i < std::min(count, first + step); ++i) {
      model::SequenceInput input;
      input.ids = windows.at(i);
      inputs.push_back(input);
    }
    const model::Batch batch(inputs);
    model::Trace trace;  // of one layer at a time: nothing is kept
    trace.visit = [&](int64_t layer) {
      visit(static_cast<size_t>(layer), trace.router_input[0]);
    };
    decoder.Forward(exec, batch, &trace);
  }
}

void AddRows(const Tensor& h, std::vector<double>& sum) {
  const int64_t rows = h.rows(), cols = h.cols();
  for (int64_t m = 0; m < rows; ++m) {
    const float* row = h.f32() + m * cols;
    for (int64_t c = 0; c < cols; ++c) sum[static_cast<size_t>(c)] += row[c];
  }
}

using LayerSums = std::vector<std::vector<double>>;  // [L][C] or [L][C*C]

LayerSums Zeros(int64_t layers, int64_t size) {
  return LayerSums(static_cast<size_t>(layers),
                   std::vector<double>(static_cast<size_t>(size)));
}

void Scale(LayerSums& sums, double factor) {
  for (std::vector<double>& layer : sums) {
    for (double& value : layer) value *= factor;
  }
}

std::vector<float> Narrow(const std::vector<double>& values) {
  return std::vector<float>(values.begin(), values.end());
}

// The lower triangle of sum_m x_m x_m^T is added to. Tiles of 4 x 8 sums
// stay in registers while the rows stream by; each sum runs over the rows in
// order whatever thread has its tile.
// x: [M,C] f32.   sum: [C,C].
void AddOuterProducts(const Tensor& x, std::vector<double>& sum) {
  constexpr int64_t kTall = 4, kWide = 8;
  const int64_t rows = x.rows(), cols = x.cols();
  const float* data = x.f32();
#pragma omp parallel for schedule(dynamic, 4)
  for (int64_t i0 = 0; i0 < cols; i0 += kTall) {
    const int64_t tall = std::min(kTall, cols - i0);
    for (int64_t j0 = 0; j0 < i0 + tall; j0 += kWide) {
      const int64_t wide = std::min(kWide, cols - j0);
      double tile[kTall][kWide] = {};
      for (int64_t m = 0; m < rows; ++m) {
        const float* row = data + m * cols;
        if (tall == kTall && wide == kWide) {
          for (int64_t i = 0; i < kTall; ++i) {
            const double xi = row[i0 + i];
            for (int64_t j = 0; j < kWide; ++j) tile[i][j] += xi * row[j0 + j];
          }
        } else {
          for (int64_t i = 0; i < tall; ++i) {
            const double xi = row[i0 + i];
            for (int64_t j = 0; j < wide; ++j) tile[i][j] += xi * row[j0 + j];
          }
        }
      }
      for (int64_t i = 0; i < tall; ++i) {
        for (int64_t j = 0; j < wide && j0 + j <= i0 + i; ++j) {
          sum[static_cast<size_t>((i0 + i) * cols + j0 + j)] += tile[i][j];
        }
      }
    }
  }
}

// E[x x^T] - mean mean^T from the lower triangle of the sums, both halves.
std::vector<double> Covariance(const std::vector<double>& sums,
                               const std::vector<double>& mean,
                               double tokens) {
  const size_t n = mean.size();
  std::vector<double> covariance(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      covariance[i * n + j] = covariance[j * n + i] =
          sums[i * n + j] / tokens - mean[i] * mean[j];
    }
  }
  return covariance;
}

// d(t) of whole windows of router inputs, in order, the first `skip` rows of
// each window left out. metric: P, or G of a lower rank.
void AddDistances(const Tensor& h, int64_t window, const OwnerGate& gate,
                  int64_t skip, const std::vector<float>& mean,
                  const std::vector<float>& metric,
                  std::vector<float>& distances) {
  const int64_t cols = h.cols(), kept = window - skip;
  const int64_t windows = h.rows() / window;
  math::AnchoredLayer layer;  // of the router: the same constants
  layer.smoothing = static_cast<float>(gate.smoothing);
  layer.prefix_mean = gate.prefix_mean;
  math::Arena arena;
  const Tensor offset = arena.New({windows * kept, cols});
  const auto smooth = [&](int64_t w) {
    std::vector<float> state(static_cast<size_t>(cols));
    for (int64_t t = 0; t < window; ++t) {
      const float* row = h.f32() + (w * window + t) * cols;
      const float a = layer.Smoothing(t);
      for (int64_t c = 0; c < cols; ++c) {
        float& s = state[static_cast<size_t>(c)];
        s = t == 0 ? row[c] : a * s + (1 - a) * row[c];
      }
      if (t < skip) continue;
      float* out =
          static_cast<float*>(offset.data) + (w * kept + t - skip) * cols;
      for (int64_t c = 0; c < cols; ++c) {
        out[c] = state[static_cast<size_t>(c)] - mean[static_cast<size_t>(c)];
      }
    }
  };
#pragma omp parallel for
  for (int64_t w = 0; w < windows; ++w) smooth(w);

  const bool full = gate.rank == 0;
  const int64_t rank = full ? cols : gate.rank;
  Tensor p;
  p.data = const_cast<float*>(metric.data());
  p.shape = {rank, cols};
  const Tensor product = arena.New({offset.rows(), rank});
  math::Cpu().linear(offset, p, product, math::Product::kExact);
  const size_t first = distances.size();
  distances.resize(first + static_cast<size_t>(offset.rows()));
#pragma omp parallel for
  for (int64_t m = 0; m < offset.rows(); ++m) {
    const float* y = product.f32() + m * rank;
    const float* x = full ? offset.f32() + m * cols : y;
    double sum = 0;
    for (int64_t c = 0; c < rank; ++c) sum += double{x[c]} * y[c];
    distances[first + static_cast<size_t>(m)] = static_cast<float>(sum);
  }
}

// Linear between the two neighbours of position q (n-1) in sorted order.
double Quantile(std::vector<float> values, double q) {
  const double position = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(std::floor(position));
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(low);
  std::nth_element(values.begin(), nth, values.end());
  const double below = *nth;
  if (low + 1 == values.size()) return below;
  const double above = *std::min_element(nth + 1, values.end());
  return below + (position - static_cast<double>(low)) * (above - below);
}

// mean += noise L^-T z, with P = L L^T
bool AddNoise(const AnchorLayer& anchor, double noise, const double* normal,
              std::vector<double>& mean) {
  std::vector<double> z(normal, normal + mean.size());
  if (!ShapeByInverse({anchor.precision.begin(), anchor.precision.end()},
                      static_cast<int64_t>(mean.size()), z.data())) {
    return false;
  }
  for (size_t c = 0; c < mean.size(); ++c) mean[c] += noise * z[c];
  return true;
}

// The gate of the published means first, then the further ones.
std::vector<OwnerGate> Gates(const OwnerStatisticsOptions& options) {
  std::vector<OwnerGate> gates = {
      {options.smoothing, false, options.quantile, 0}};
  gates.insert(gates.end(), options.further.begin(), options.further.end());
  return gates;
}

absl::Status CheckOwner(const model::Decoder& base, const model::Decoder& pair,
                        const std::vector<AnchorLayer>& anchor,
                        const TokenWindows& own,
                        const OwnerStatisticsOptions& options) {
  const model::ModelConfig& config = base.config();
  MOTET_RETURN_IF_ERROR(CheckWindows(base, own));
  if (pair.config().layers != config.layers ||
      pair.config().width != config.width) {
    return proto::Invalid("owner's statistics", "a pair of another shape",
                          "the pair of this base", "");
  }
  bool fits = static_cast<int64_t>(anchor.size()) == config.layers;
  for (const AnchorLayer& layer : anchor) {
    fits = fits && static_cast<int64_t>(layer.precision.size()) ==
                       config.width * config.width;
  }
  if (!fits) {
    return proto::Invalid("owner's statistics", "an anchor of other shapes",
                          absl::StrCat(config.layers, " layers of width ",
                                       config.width),
                          "use the base's own anchor");
  }
  if (own.window() <= options.skip_positions || options.skip_positions < 0) {
    return proto::Invalid(
        "owner's statistics", absl::StrCat("windows of ", own.window()),
        absl::StrCat("more than the ", options.skip_positions,
                     " positions left out"),
        "lengthen the windows");
  }
  if (options.noise < 0 ||
      (options.noise > 0 && static_cast<int64_t>(options.normal.size()) !=
                                2 * config.layers * config.width)) {
    return proto::Invalid("owner's statistics",
                          absl::StrCat("noise ", options.noise, " with ",
                                       options.normal.size(), " draws"),
                          absl::StrCat("0 or above, with ",
                                       2 * config.layers * config.width));
  }
  const auto fraction = [](double f) { return f >= 0 && f <= 1; };
  for (const OwnerGate& gate : Gates(options)) {
    bool good = fraction(gate.smoothing) && fraction(gate.quantile) &&
                gate.rank >= 0 && gate.rank <= config.width;
    for (const AnchorLayer& layer : anchor) {
      good = good && (gate.rank == 0 ||
                      layer.covariance.size() == layer.precision.size());
    }
    if (good) continue;
    return proto::Invalid(
        "owner's statistics",
        absl::StrCat("smoothing ", gate.smoothing, ", quantile ",
                     gate.quantile, ", rank ", gate.rank),
        absl::StrCat("the first two within 0 to 1, a rank of at most ",
                     config.width, " and an anchor with its covariance"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::vector<double>>> MeanRouterInputs(
    const model::Decoder& decoder, const TokenWindows& windows,
    int64_t max_tokens) {
  MOTET_RETURN_IF_ERROR(CheckWindows(decoder, windows));
  const int64_t count = WindowCount(windows, max_tokens);
  LayerSums mean = Zeros(decoder.config().layers, decoder.config().width);
  ForEachBatch(decoder, windows, count,
               [&](size_t l, const Tensor& h) { AddRows(h, mean[l]); });
  Scale(mean, 1.0 / static_cast<double>(count * windows.window()));
  return mean;
}

int64_t StatisticsTokens(const TokenWindows& windows, int64_t max_tokens) {
  return WindowCount(windows, max_tokens) * windows.window();
}

absl::StatusOr<std::vector<AnchorLayer>> ComputeAnchor(
    const model::Decoder& base, const TokenWindows& windows,
    int64_t max_tokens, double ridge) {
  MOTET_RETURN_IF_ERROR(CheckWindows(base, windows));
  const int64_t count = WindowCount(windows, max_tokens);
  const int64_t layers = base.config().layers, width = base.config().width;
  const double tokens = static_cast<double>(count * windows.window());
  LayerSums mean = Zeros(layers, width);
  LayerSums squares = Zeros(layers, width * width);
  ForEachBatch(base, windows, count, [&](size_t l, const Tensor& h) {
    AddRows(h, mean[l]);
    AddOuterProducts(h, squares[l]);
  });
  Scale(mean, 1.0 / tokens);

  std::vector<AnchorLayer> anchor;
  for (size_t l = 0; l < mean.size(); ++l) {
    std::vector<double> covariance = Covariance(squares[l], mean[l], tokens);
    AnchorLayer layer;
    layer.mean = Narrow(mean[l]);
    layer.covariance = Narrow(covariance);
    double diagonal = 0;
    for (int64_t c = 0; c < width; ++c) {
      diagonal += covariance[static_cast<size_t>(c * width + c)];
    }
    const double lambda = ridge * diagonal / static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) {
      covariance[static_cast<size_t>(c * width + c)] += lambda;
    }
    if (!InvertPositive(covariance, width)) {
      return proto::Error(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("anchor, layer ", l),
          "router inputs whose covariance has no inverse",
          "finite inputs that vary, ridge above 0",
          "use more public text or a trained base");
    }
    layer.precision = Narrow(covariance);
    anchor.push_back(std::move(layer));
  }
  return anchor;
}

absl::StatusOr<std::vector<SecondMoments>> ComputeSecondMoments(
    const model::Decoder& decoder, const TokenWindows& windows,
    int64_t max_tokens) {
  MOTET_RETURN_IF_ERROR(CheckWindows(decoder, windows));
  const int64_t count = WindowCount(windows, max_tokens);
  const int64_t layers = decoder.config().layers;
  const int64_t width = decoder.config().width;
  LayerSums sums = Zeros(layers, width);
  LayerSums squares = Zeros(layers, width * width);
  ForEachBatch(decoder, windows, count, [&](size_t l, const Tensor& h) {
    AddRows(h, sums[l]);
    AddOuterProducts(h, squares[l]);
  });
  std::vector<SecondMoments> moments(static_cast<size_t>(layers));
  for (size_t l = 0; l < moments.size(); ++l) {
    for (int64_t i = 0; i < width; ++i) {
      const auto row = squares[l].begin() + i * width;
      moments[l].products.insert(moments[l].products.end(), row, row + i + 1);
    }
    moments[l].sum = std::move(sums[l]);
  }
  return moments;
}

absl::StatusOr<std::vector<OwnerLayer>> ComputeOwnerStatistics(
    const model::Decoder& base, const model::Decoder& pair,
    const std::vector<AnchorLayer>& anchor, const TokenWindows& own,
    const OwnerStatisticsOptions& options) {
  MOTET_RETURN_IF_ERROR(CheckOwner(base, pair, anchor, own, options));
  const int64_t layers = base.config().layers, width = base.config().width;
  const int64_t count = WindowCount(own, options.max_tokens);
  const int64_t tokens = count * own.window();
  MOTET_ASSIGN_OR_RETURN(LayerSums base_mean,
                         MeanRouterInputs(base, own, options.max_tokens));

  // First pass of the pair: means. Batches are kept when they fit.
  const bool keep =
      tokens * layers * width * int64_t{sizeof(float)} <= kKeepBytes;
  std::vector<std::vector<std::vector<float>>> kept;  // [batch][layer]
  LayerSums pair_mean = Zeros(layers, width);
  ForEachBatch(pair, own, count, [&](size_t l, const Tensor& h) {
    AddRows(h, pair_mean[l]);
    if (!keep) return;
    if (l == 0) kept.emplace_back();
    kept.back().emplace_back(h.f32(), h.f32() + h.size());
  });
  Scale(pair_mean, 1.0 / static_cast<double>(tokens));

  std::vector<OwnerLayer> result(static_cast<size_t>(layers));
  // Gates that smooth alike, of one rank, read the same distances:
  // [way][layer]. Their metrics, likewise.
  const std::vector<OwnerGate> gates = Gates(options);
  std::vector<OwnerGate> ways;
  std::vector<size_t> way_of;
  for (const OwnerGate& gate : gates) {
    size_t w = 0;
    while (w < ways.size() && (ways[w].prefix_mean != gate.prefix_mean ||
                               ways[w].smoothing != gate.smoothing ||
                               ways[w].rank != gate.rank)) {
      ++w;
    }
    if (w == ways.size()) ways.push_back(gate);
    way_of.push_back(w);
  }
  std::vector<std::vector<std::vector<float>>> distances(
      ways.size(),
      std::vector<std::vector<float>>(static_cast<size_t>(layers)));
  if (options.noise > 0) {
    for (size_t l = 0; l < result.size(); ++l) {
      const double* normal = options.normal.data() + 2 * width * l;
      if (!AddNoise(anchor[l], options.noise, normal, base_mean[l]) ||
          !AddNoise(anchor[l], options.noise, normal + width, pair_mean[l])) {
        return proto::Invalid(absl::StrCat("owner's statistics, layer ", l),
                              "a precision that is not positive definite",
                              "the base's own anchor");
      }
    }
  }
  for (size_t l = 0; l < result.size(); ++l) {
    result[l].base_mean = Narrow(base_mean[l]);
    result[l].pair_mean = Narrow(pair_mean[l]);
  }
  std::map<int64_t, std::vector<std::vector<float>>> factors;  // [rank][layer]
  for (const OwnerGate& way : ways) {
    std::vector<std::vector<float>>& factor = factors[way.rank];
    if (way.rank == 0 || !factor.empty()) continue;
    factor.resize(anchor.size());
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t l = 0; l < anchor.size(); ++l) {
      factor[l] = GateFactor(anchor[l].covariance.data(),
                             anchor[l].precision.data(), width, way.rank);
    }
  }
  const auto add = [&](size_t l, const Tensor& h) {
    for (size_t w = 0; w < ways.size(); ++w) {
      AddDistances(h, own.window(), ways[w], options.skip_positions,
                   result[l].pair_mean,
                   ways[w].rank == 0 ? anchor[l].precision
                                     : factors[ways[w].rank][l],
                   distances[w][l]);
    }
  };
  for (std::vector<std::vector<float>>& batch : kept) {
    for (size_t l = 0; l < batch.size(); ++l) {
      Tensor h;
      h.data = batch[l].data();
      h.shape = {static_cast<int64_t>(batch[l].size()) / width, width};
      add(l, h);
    }
  }
  if (!keep) {
    ForEachBatch(pair, own, count, add);
  }
  for (size_t l = 0; l < result.size(); ++l) {
    for (size_t g = 0; g < gates.size(); ++g) {
      const double tau = Quantile(distances[way_of[g]][l], gates[g].quantile);
      if (!std::isfinite(tau)) {
        return proto::Error(absl::StatusCode::kFailedPrecondition,
                            absl::StrCat("owner's statistics, layer ", l),
                            "distances that are not finite", "a trained pair",
                            "look at the run's loss curve");
      }
      if (g == 0) {
        result[l].threshold = static_cast<float>(tau);
      } else {
        result[l].further.push_back(static_cast<float>(tau));
      }
    }
  }
  return result;
}

}  // namespace motet::learn
