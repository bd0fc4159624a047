// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/products.h"

#include <dnnl.h>

#include <algorithm>
#include <cstring>

#include "compose/math/tensor.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

using Call = std::function<void()>;

Call SgemmCall(const MatrixProduct& p, const void* a, const void* b,
               void* c) {
  return [=] {
    dnnl_sgemm(p.trans_a ? 'T' : 'N', p.trans_b ? 'T' : 'N', p.m, p.n, p.k,
               1.0f, static_cast<const float*>(a), p.trans_a ? p.m : p.k,
               static_cast<const float*>(b), p.trans_b ? p.k : p.n, 0.0f,
               static_cast<float*>(c), p.n);
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

// Empty where the library refuses.
Call MatmulCall(const MatrixProduct& p, bool bf16, void* a, void* b,
                void* c) {
  auto matmul = std::make_shared<Matmul>();
  bool fine = dnnl_engine_create(&matmul->engine, dnnl_cpu, 0) == dnnl_success;
  fine = fine && dnnl_stream_create(&matmul->stream, matmul->engine,
                                    dnnl_stream_default_flags) == dnnl_success;
  const auto describe = [&](int64_t rows, int64_t cols, bool transposed,
                            dnnl_data_type_t type) {
    dnnl_memory_desc_t desc;
    const dnnl_dims_t dims = {rows, cols};
    fine = fine && dnnl_memory_desc_init_by_tag(
                       &desc, 2, dims, type,
                       transposed ? dnnl_ba : dnnl_ab) == dnnl_success;
    return desc;
  };
  const dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
  const dnnl_memory_desc_t descs[3] = {describe(p.m, p.k, p.trans_a, type),
                                       describe(p.k, p.n, p.trans_b, type),
                                       describe(p.m, p.n, false, dnnl_f32)};
  void* data[3] = {a, b, c};
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
  if (primitive_desc != nullptr) dnnl_primitive_desc_destroy(primitive_desc);
  if (!fine) return nullptr;
  return [matmul] {
    const dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, matmul->memory[0]},
                                     {DNNL_ARG_WEIGHTS, matmul->memory[1]},
                                     {DNNL_ARG_DST, matmul->memory[2]}};
    dnnl_primitive_execute(matmul->primitive, matmul->stream, 3, args);
    dnnl_stream_wait(matmul->stream);
  };
}

double BestOf(const Call& call) {
  double best = 1e9;
  for (int i = 0; i < 4; ++i) best = std::min(best, Seconds(call));
  return best;
}

}  // namespace

void ProductList::Add(const MatrixProduct& p) {
  std::vector<char*> data;
  const auto buffer = [&](int64_t size, bool bf16) {
    const int64_t bytes = size * (bf16 ? 2 : 4);
    storage_.push_back(std::make_unique<char[]>(static_cast<size_t>(bytes)));
    char* const start = storage_.back().get();
    for (int64_t i = 0; i < size; ++i) {
      const float value = static_cast<float>(i % 13) * 0.1f;
      const uint16_t narrow = math::NarrowBf16(value);
      if (bf16) {
        std::memcpy(start + 2 * i, &narrow, 2);
      } else {
        std::memcpy(start + 4 * i, &value, 4);
      }
    }
    data.push_back(start);
  };
  buffer(p.m * p.k, bf16_);
  buffer(p.k * p.n, bf16_);
  buffer(p.m * p.n, false);
  Call best = MatmulCall(p, bf16_, data[0], data[1], data[2]);
  if (!bf16_) {
    const Call other = SgemmCall(p, data[0], data[1], data[2]);
    if (best == nullptr || BestOf(other) < BestOf(best)) best = other;
  }
  if (best == nullptr) math::CheckFailed(__FILE__, __LINE__, "a product");
  for (int64_t i = 0; i < p.times; ++i) calls_.push_back(best);
  flops_ += 2.0 * static_cast<double>(p.m * p.n * p.k * p.times);
}

void ProductList::AddLinear(int64_t rows, int64_t cols, int64_t outputs,
                            int64_t times, bool dx, bool dw) {
  Add({false, true, rows, outputs, cols, times});
  if (dx) Add({false, false, rows, cols, outputs, times});
  if (dw) Add({true, false, outputs, cols, rows, times});
}

void ProductList::Run() const {
  for (const Call& call : calls_) call();
}

}  // namespace motet::bench
