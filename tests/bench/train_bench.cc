// SPDX-License-Identifier: Apache-2.0
// How much of the matrix library's own rate a training step reaches. Ours:
// whole steps (forward, backward, clipping, AdamW) of the quickstart's model.
// Peer: nothing but the step's matrix products, by oneDNN, same shapes, same
// threads. Rounds alternate; medians of five.
//
//   train_bench [-o text|json] [NAME...]     one line a benchmark
#include <dnnl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "compose/learn/hash.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"
#include "nlohmann/json.hpp"

namespace motet::learn {
namespace {

constexpr int kRounds = 5;
constexpr int64_t kBatch = 16, kWindow = 128, kTokens = kBatch * kWindow;

// The quickstart's base.
model::ModelConfig Config() {
  model::ModelConfig config;
  config.block = model::Block::kPostNorm;
  config.vocabulary = 4096;
  config.width = 192;
  config.layers = 4;
  config.heads = config.kv_heads = 6;
  config.head_dim = 32;
  config.ffn_width = 512;
  config.max_positions = 512;
  return config;
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() -
                                       start)
      .count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// y [m,n] = op(a) op(b) over k terms, `times` a step.
struct Product {
  bool trans_a, trans_b;
  int64_t m, n, k;
  int64_t times;
};

// One of the library's two interfaces, prepared for a product; both are tried
// and the faster one is the peer.
using Call = std::function<void()>;

Call SgemmCall(const Product& p, const float* a, const float* b, float* c) {
  return [=] {
    dnnl_sgemm(p.trans_a ? 'T' : 'N', p.trans_b ? 'T' : 'N', p.m, p.n, p.k,
               1.0f, a, p.trans_a ? p.m : p.k, b, p.trans_b ? p.k : p.n, 0.0f,
               c, p.n);
  };
}

struct Matmul {
  dnnl_engine_t engine = nullptr;
  dnnl_stream_t stream = nullptr;
  dnnl_primitive_t primitive = nullptr;
  dnnl_memory_t memory[3] = {};
  ~Matmul() {
    for (dnnl_memory_t m : memory) dnnl_memory_destroy(m);
    dnnl_primitive_destroy(primitive);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
  }
};

Call MatmulCall(const Product& p, float* a, float* b, float* c) {
  auto matmul = std::make_shared<Matmul>();
  bool fine = dnnl_engine_create(&matmul->engine, dnnl_cpu, 0) == dnnl_success;
  fine = fine && dnnl_stream_create(&matmul->stream, matmul->engine,
                                    dnnl_stream_default_flags) == dnnl_success;
  const auto describe = [&](int64_t rows, int64_t cols, bool transposed) {
    dnnl_memory_desc_t desc;
    const dnnl_dims_t dims = {rows, cols};
    fine = fine && dnnl_memory_desc_init_by_tag(
                       &desc, 2, dims, dnnl_f32,
                       transposed ? dnnl_ba : dnnl_ab) == dnnl_success;
    return desc;
  };
  const dnnl_memory_desc_t descs[3] = {describe(p.m, p.k, p.trans_a),
                                       describe(p.k, p.n, p.trans_b),
                                       describe(p.m, p.n, false)};
  float* data[3] = {a, b, c};
  for (int i = 0; i < 3; ++i) {
    fine = fine && dnnl_memory_create(&matmul->memory[i], &descs[i],
                                      matmul->engine, data[i]) == dnnl_success;
  }
  dnnl_matmul_desc_t desc;
  dnnl_primitive_desc_t primitive_desc = nullptr;
  fine = fine && dnnl_matmul_desc_init(&desc, &descs[0], &descs[1], nullptr,
                                       &descs[2]) == dnnl_success;
  fine = fine && dnnl_primitive_desc_create(&primitive_desc, &desc, nullptr,
                                            matmul->engine,
                                            nullptr) == dnnl_success;
  fine = fine && dnnl_primitive_create(&matmul->primitive, primitive_desc) ==
                     dnnl_success;
  dnnl_primitive_desc_destroy(primitive_desc);
  if (!fine) return nullptr;
  return [matmul] {
    const dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, matmul->memory[0]},
                                     {DNNL_ARG_WEIGHTS, matmul->memory[1]},
                                     {DNNL_ARG_DST, matmul->memory[2]}};
    dnnl_primitive_execute(matmul->primitive, matmul->stream, 3, args);
    dnnl_stream_wait(matmul->stream);
  };
}

// All products of a step, one after another.
class Peer {
 public:
  void Add(const Product& p) {
    std::vector<float*> data;
    for (int64_t size : {p.m * p.k, p.k * p.n, p.m * p.n}) {
      storage_.push_back(
          std::make_unique<float[]>(static_cast<size_t>(size)));
      data.push_back(storage_.back().get());
      for (int64_t i = 0; i < size; ++i) {
        data.back()[i] = static_cast<float>(i % 13) * 0.1f;
      }
    }
    Call best = SgemmCall(p, data[0], data[1], data[2]);
    if (Call other = MatmulCall(p, data[0], data[1], data[2])) {
      if (BestOf(other) < BestOf(best)) best = other;
    }
    for (int64_t i = 0; i < p.times; ++i) calls_.push_back(best);
    flops_ += 2.0 * static_cast<double>(p.m * p.n * p.k * p.times);
  }
  // The forward product of y = x W^T and those of its backward.
  void AddLinear(int64_t rows, int64_t cols, int64_t outputs, int64_t times,
                 bool dx, bool dw) {
    Add({false, true, rows, outputs, cols, times});
    if (dx) Add({false, false, rows, cols, outputs, times});
    if (dw) Add({true, false, outputs, cols, rows, times});
  }
  void Run() const {
    for (const Call& call : calls_) call();
  }
  double flops() const { return flops_; }

 private:
  static double BestOf(const Call& call) {
    double best = 1e9;
    for (int i = 0; i < 4; ++i) best = std::min(best, Seconds(call));
    return best;
  }
  std::vector<std::unique_ptr<float[]>> storage_;
  std::vector<Call> calls_;
  double flops_ = 0;
};

struct Result {
  double ours, peer, ratio, gflops;
};

Result Compare(const std::function<void()>& step, const Peer& peer) {
  step();
  peer.Run();
  std::vector<double> ours, theirs, ratios;
  for (int round = 0; round < kRounds; ++round) {
    constexpr int kTimes = 3;
    const double a = Seconds([&] {
      for (int i = 0; i < kTimes; ++i) step();
    });
    const double b = Seconds([&] {
      for (int i = 0; i < kTimes; ++i) peer.Run();
    });
    ours.push_back(kTimes * kTokens / a);
    theirs.push_back(kTimes * kTokens / b);
    ratios.push_back(b / a);
  }
  const double rate = Median(theirs);
  return {Median(ours), rate, Median(ratios),
          peer.flops() / kTokens * rate * 1e-9};
}

// Random token sequences: what they say does not matter to the speed.
struct Text {
  Text() {
    for (int64_t b = 0; b < kBatch; ++b) {
      for (int64_t t = 0; t < kWindow; ++t) {
        ids.push_back(static_cast<int32_t>(
            Mix(static_cast<uint64_t>(b * kWindow + t)) % 4096));
      }
    }
    for (int64_t b = 0; b < kBatch; ++b) {
      sequences.push_back(std::span<const int32_t>(ids).subspan(
          static_cast<size_t>(b * kWindow), kWindow));
    }
  }
  std::vector<int32_t> ids;
  std::vector<std::span<const int32_t>> sequences;
};

Result TrainDenseBench() {
  const model::ModelConfig c = Config();
  OwnedModel model = InitialModel(c, 1);
  const auto decoder = model::Decoder::Create(c, model.weights, {});
  StepOptions options;
  options.weight_decay = 0.1;
  Stepper stepper(*decoder, DenseParameters(model), options);
  const Text text;
  Peer peer;
  peer.AddLinear(kTokens, c.width, c.width, 4 * c.layers, true, true);
  peer.AddLinear(kTokens, c.width, c.ffn_width, 2 * c.layers, true, true);
  peer.AddLinear(kTokens, c.ffn_width, c.width, c.layers, true, true);
  peer.AddLinear(kTokens, c.width, c.vocabulary, 1, true, true);
  return Compare([&] { stepper.Step(text.sequences, 1e-4); }, peer);
}

// An owner's run: only the own FFN's weight gradients are wanted, and no
// gradient reaches below the first layer's FFN.
Result TrainOwnerBench() {
  const model::ModelConfig c = Config();
  OwnedModel model = InitialModel(c, 1);
  package::LoadedModel base;
  base.config = c;
  base.weights = model.weights;
  OwnerExpert expert = NewOwnerExpert(base);
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    const model::FfnWeights& from = model.weights.layers[l].experts[0];
    Widen(from.gate, expert.layers[l].ffn.gate);
    Widen(from.up, expert.layers[l].ffn.up);
    Widen(from.down, expert.layers[l].ffn.down);
  }
  const auto decoder = PairDecoder(base, expert);
  StepOptions options;
  options.router_z_weight = 1e-3;
  options.lm_z_weight = 1e-5;
  Stepper stepper(*decoder, OwnerParameters(expert), options);
  const Text text;
  Peer peer;
  const int64_t above = c.layers - 1;
  peer.AddLinear(kTokens, c.width, c.width, 4, false, false);
  peer.AddLinear(kTokens, c.width, c.width, 4 * above, true, false);
  // The base's FFN, then the own one: gate and up, down.
  peer.AddLinear(kTokens, c.width, c.ffn_width, 2, false, false);
  peer.AddLinear(kTokens, c.width, c.ffn_width, 2 * above, true, false);
  peer.AddLinear(kTokens, c.ffn_width, c.width, 1, false, false);
  peer.AddLinear(kTokens, c.ffn_width, c.width, above, true, false);
  peer.AddLinear(kTokens, c.width, c.ffn_width, 2, false, true);
  peer.AddLinear(kTokens, c.width, c.ffn_width, 2 * above, true, true);
  peer.AddLinear(kTokens, c.ffn_width, c.width, c.layers, true, true);
  peer.AddLinear(kTokens, c.width, c.vocabulary, 1, true, false);
  return Compare([&] { stepper.Step(text.sequences, 1e-4); }, peer);
}

struct Benchmark {
  const char* name;
  Result (*run)();
};
constexpr Benchmark kBenchmarks[] = {
    {"train_dense", TrainDenseBench},
    {"train_owner", TrainOwnerBench},
};

std::string Processor() {
  std::ifstream in("/proc/cpuinfo");
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind("model name", 0) == 0) {
      return line.substr(line.find(':') + 2);
    }
  }
  return "unknown";
}

void Print(const Benchmark& benchmark, const Result& r, bool json) {
  const std::string cpu = Processor() + ", " + math::InstructionSet() + ", " +
                          std::to_string(math::Threads()) + " threads";
  const std::string peer = "oneDNN, the step's products alone";
  if (json) {
    const nlohmann::ordered_json line = {
        {"name", benchmark.name}, {"ours", r.ours}, {"peer", r.peer},
        {"peer_name", peer},      {"ratio", r.ratio},
        {"unit", "tokens/s"},     {"cpu", cpu}};
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf("%-14s %10.0f %10.0f %6.2f  %-9s %s (%.0f GFLOP/s); %s\n",
                benchmark.name, r.ours, r.peer, r.ratio, "tokens/s",
                peer.c_str(), r.gflops, cpu.c_str());
  }
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  bool json = false;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "-o" && i + 1 < argc) {
      json = std::string(argv[++i]) == "json";
    } else {
      names.push_back(arg);
    }
  }
  for (const std::string& name : names) {
    const bool known =
        std::any_of(std::begin(kBenchmarks), std::end(kBenchmarks),
                    [&](const Benchmark& b) { return name == b.name; });
    if (!known) {
      std::fprintf(stderr, "[train_bench] got %s, want a benchmark of:",
                   name.c_str());
      for (const Benchmark& b : kBenchmarks) {
        std::fprintf(stderr, " %s", b.name);
      }
      std::fprintf(stderr, "\n");
      return 2;
    }
  }
  for (const Benchmark& benchmark : kBenchmarks) {
    if (names.empty() ||
        std::find(names.begin(), names.end(), benchmark.name) !=
            names.end()) {
      Print(benchmark, benchmark.run(), json);
    }
  }
  return 0;
}

}  // namespace
}  // namespace motet::learn

int main(int argc, char** argv) { return motet::learn::Main(argc, argv); }
