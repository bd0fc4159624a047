// SPDX-License-Identifier: Apache-2.0
// Blocking and threads of Multiply; the loops that count are in product.inl
// and kernels_avx512bf16.cc.
//
// All of a is packed once. A task takes a group of panels of b and a block of
// rows of a; for each block of terms it packs its panels and runs its rows
// over them. c holds the sums between blocks of terms: f32 in, f32 out, so
// where a block ends cannot be seen in the result. Where there are few rows
// (direct) or, in bf16, not many (wide), b is not packed but read where it
// lies.
#include "compose/math/cpu/product.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/operators.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kGroupBytes = 512 << 10;  // of packed b, in L2
constexpr int64_t kBlockTiles = 64;         // 1024 rows of a
constexpr int64_t kPackTiles = 4;           // of a, packed together
constexpr int64_t kTasksAThread = 6;
// Weights for at most so many rows are not packed where there is a form that
// reads them where they lie; with more terms its panels of a would not stay
// in L2.
constexpr int64_t kWideRows = 256;
constexpr int64_t kWideTerms = 3072;
constexpr int64_t kAlone = int64_t{1} << 15;  // numbers one thread packs

int64_t Panels(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

// A job with how it is cut.
struct Plan {
  const Job* job;
  float* packed_a;      // [tile][words of all terms][kPanel]
  int64_t tiles, tile_words;
  int64_t block;        // terms of a block; all but the last are as long
  int64_t group;        // panels of b in a task
  int64_t groups, blocks;
  int64_t first_task;
  bool direct;          // few rows: b is read where it lies
  bool wide;            // some more rows, the same
  int64_t a_stride;     // between words of packed_a: kPanel, or the rows
};

// Panels of operand x for rows [row, end) and terms [k, k + n).
void PackPanels(const PanelOps& ops, const Operand& x, int64_t row,
                int64_t end, int64_t k, int64_t n, float* to,
                int64_t panel_words) {
  const int64_t at = x.turned ? k * x.stride + row : row * x.stride + k;
  const int64_t size = ByteSize(x.dtype);
  const char* from = static_cast<const char*>(x.data) + at * size;
  if (x.turned) {
    ops.pack_turned(from, x.dtype, x.stride, end - row, n, to, panel_words);
    return;
  }
  for (; row < end; row += kPanel) {
    ops.pack(from, x.dtype, x.stride, std::min(kPanel, end - row), n, to);
    from += kPanel * x.stride * size;
    to += panel_words;
  }
}

void PackA(const PanelOps& ops, const Plan& plan, int64_t tile) {
  const Job& job = *plan.job;
  if (plan.a_stride != kPanel) {
    return ops.pack_close(static_cast<const float*>(job.a.data), job.a.stride,
                          job.rows, job.terms, plan.packed_a);
  }
  PackPanels(ops, job.a, tile * kPanel,
             std::min(job.rows, (tile + kPackTiles) * kPanel), 0, job.terms,
             plan.packed_a + tile * plan.tile_words, plan.tile_words);
}

// Tiles [first, last) of a by packed panels of b: columns [col, col + width)
// of c, terms [k, k + n).
void RunTiles(const PanelOps& ops, const Plan& plan, int64_t first,
              int64_t last, int64_t col, int64_t width, int64_t k, int64_t n,
              const float* packed_b) {
  const Job& job = *plan.job;
  const int64_t panel_words = ops.Words(n) * kPanel;
  const bool add = job.add || k > 0;
  alignas(64) float edge[kPanel * kPanel];
  for (int64_t t = first; t < last; ++t) {
    const int64_t rows = std::min(kPanel, job.rows - t * kPanel);
    const float* a =
        plan.packed_a + t * plan.tile_words + ops.Words(k) * kPanel;
    // Few rows take several panels at a time: enough sums in flight.
    const int64_t most = ops.PanelsFor(rows);
    for (int64_t p = 0; p * kPanel < width;) {
      const int64_t whole = width / kPanel - p;
      float* c = job.c + t * kPanel * job.c_stride + col + p * kPanel;
      const float* b = packed_b + p * panel_words;
      if (whole > 0) {
        // Four as two and two: a tile of one panel is the slowest.
        const int64_t panels =
            most == 3 && whole == 4 ? 2 : std::min(whole, most);
        ops.tile(a, b, panel_words, n, rows, panels, add, c, job.c_stride);
        p += panels;
        continue;
      }
      const int64_t cols = width - p * kPanel;
      for (int64_t r = 0; add && r < rows; ++r) {
        std::copy_n(c + r * job.c_stride, cols, edge + r * kPanel);
      }
      ops.tile(a, b, panel_words, n, rows, 1, add, edge, kPanel);
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(edge + r * kPanel, cols, c + r * job.c_stride);
      }
      ++p;
    }
  }
}

// All rows by kDirectPanels panels of columns from `col`. The last rows, when
// they are few, as the direct form takes them.
void RunWide(const PanelOps& ops, const Plan& plan, int64_t col) {
  const Job& job = *plan.job;
  const auto weights = [&](int64_t n) {
    return static_cast<const char*>(job.b.data) +
           n * job.b.stride * ByteSize(job.b.dtype);
  };
  const int64_t rest = job.rows % kPanel;
  const int64_t wide = rest <= kPanel / 2 ? job.rows - rest : job.rows;
  constexpr int64_t kRows = kWidePanels * kPanel;
  for (int64_t n = col; n < col + kDirectPanels * kPanel; n += kPanel) {
    for (int64_t r = 0; r < wide; r += kRows) {
      ops.wide(plan.packed_a + r / kPanel * plan.tile_words, plan.tile_words,
               std::min(kRows, wide - r), weights(n), job.b.stride, job.terms,
               job.c + r * job.c_stride + n, job.c_stride);
    }
  }
  if (wide < job.rows) {
    ops.direct(plan.packed_a + wide / kPanel * plan.tile_words, kPanel, rest,
               weights(col), job.b.dtype, job.b.stride, job.terms,
               job.c + wide * job.c_stride + col, job.c_stride);
  }
}

void RunTask(const PanelOps& ops, const Plan& plan, int64_t task,
             float* packed_b) {
  const Job& job = *plan.job;
  const int64_t first = task / plan.blocks * plan.group * kPanel;
  const int64_t last = std::min(job.cols, first + plan.group * kPanel);
  const int64_t tile = task % plan.blocks * kBlockTiles;
  const int64_t tile_end =
      plan.blocks == 1 ? plan.tiles : std::min(plan.tiles, tile + kBlockTiles);
  const int64_t step = kDirectPanels * kPanel;
  int64_t done = first;
  if (plan.direct) {
    for (; done + step <= last; done += step) {
      const char* w = static_cast<const char*>(job.b.data) +
                      done * job.b.stride * ByteSize(job.b.dtype);
      ops.direct(plan.packed_a, plan.a_stride, job.rows, w, job.b.dtype,
                 job.b.stride, job.terms, job.c + done, job.c_stride);
    }
    if (done == last) return;
  }
  if (plan.wide) {
    for (; done + step <= last; done += step) RunWide(ops, plan, done);
    if (done == last) return;
  }
  for (int64_t k = 0; k < job.terms; k += plan.block) {
    const int64_t n = std::min(plan.block, job.terms - k);
    PackPanels(ops, job.b, done, last, k, n, packed_b,
               ops.Words(n) * kPanel);
    RunTiles(ops, plan, tile, tile_end, done, last - done, k, n, packed_b);
  }
}

// Groups of panels in threes, as the bf16 tile likes them: as many as fit L2
// and leave every thread some tasks; rows in blocks only where groups alone
// are too few.
void Cut(const PanelOps& ops, int64_t wanted, Plan& plan) {
  const Job& job = *plan.job;
  const int64_t panels = Panels(job.cols);
  plan.block = ops.block_words * ops.terms_a_word;
  const int64_t room =
      kGroupBytes / (ops.Words(std::min(plan.block, job.terms)) * kPanel *
                     static_cast<int64_t>(sizeof(float)));
  const auto group = [&](int64_t blocks) {
    if (plan.direct) {  // long runs: panels ahead are fetched in time
      const int64_t fair = (panels - 1) / Threads() + 1;
      return (fair + kDirectPanels - 1) / kDirectPanels * kDirectPanels;
    }
    const int64_t fair = (panels * blocks - 1) / wanted + 1;
    const int64_t most = std::clamp<int64_t>(room, 3, panels);
    // Near that, the group whose tasks end together: what the busiest thread
    // gets is the time that all of them take.
    int64_t best = 0, best_load = 0;
    for (int64_t g = std::max<int64_t>(3, fair / 2);
         g <= std::min(most, 2 * fair + 1); ++g) {
      if (g % 3 == 1 && g != 4) continue;
      const int64_t tasks = (panels + g - 1) / g * blocks;
      const int64_t load = (tasks + Threads() - 1) / Threads() * g;
      if (best == 0 || load < best_load ||
          (load == best_load && std::abs(g - fair) < std::abs(best - fair))) {
        best = g;
        best_load = load;
      }
    }
    return best == 0 ? std::min<int64_t>(panels, 3) : best;
  };
  plan.blocks = 1;
  plan.group = group(1);
  plan.groups = (panels + plan.group - 1) / plan.group;
  if (plan.groups < wanted && plan.tiles > kBlockTiles) {
    plan.blocks = (plan.tiles + kBlockTiles - 1) / kBlockTiles;
    plan.group = group(plan.blocks);
    plan.groups = (panels + plan.group - 1) / plan.group;
  }
}

}  // namespace

void Multiply(std::span<const Job> jobs, Arithmetic arithmetic) {
  const PanelOps& ops =
      arithmetic == Arithmetic::kBF16 ? Active().bf16 : Active().f32;
  MOTET_CHECK(ops.tile != nullptr);
  thread_local std::vector<Plan> plans;
  thread_local std::vector<size_t> to_pack;  // plans that pack their a
  plans.clear();
  to_pack.clear();
  int64_t a_floats = 0, b_floats = 0, tasks = 0, numbers = 0;
  double work = 0;
  for (const Job& job : jobs) {
    work += static_cast<double>(job.rows) * static_cast<double>(job.cols) *
            static_cast<double>(job.terms);
  }
  std::vector<int64_t> at;
  for (const Job& job : jobs) {
    if (job.rows == 0 || job.cols == 0) continue;
    Plan plan;
    plan.job = &job;
    plan.tiles = Panels(job.rows);
    plan.direct =
        job.rows <= ops.direct_rows && !job.b.turned && !job.add;
    plan.wide = ops.wide != nullptr && !plan.direct &&
                job.rows <= kWideRows && job.b.dtype == DType::kBF16 &&
                !job.b.turned && !job.add && job.terms % 2 == 0 &&
                job.terms <= kWideTerms;
    // Columns that do not fill the direct form's panels take the tile.
    const bool close = plan.direct && job.cols % (kDirectPanels * kPanel) == 0 &&
                       job.a.dtype == DType::kF32 && !job.a.turned;
    plan.a_stride = close ? job.rows : kPanel;
    plan.tile_words = ops.Words(job.terms) * kPanel;
    const double share = static_cast<double>(job.rows) *
                         static_cast<double>(job.cols) *
                         static_cast<double>(job.terms) / (work + 1);
    Cut(ops,
        std::max<int64_t>(1, static_cast<int64_t>(
                                 share * static_cast<double>(
                                             kTasksAThread * Threads()))),
        plan);
    plan.first_task = tasks;
    tasks += plan.groups * plan.blocks;
    const Plan* before = plans.empty() ? nullptr : &plans.back();
    if (before != nullptr && before->job->a == job.a &&
        before->job->rows == job.rows && before->job->terms == job.terms &&
        before->a_stride == plan.a_stride) {
      at.push_back(at.back());
    } else {
      at.push_back(a_floats);
      to_pack.push_back(plans.size());
      a_floats += plan.tiles * plan.tile_words;
      numbers += job.rows * job.terms;
    }
    const int64_t packed = plan.direct ? kDirectPanels : plan.group;
    b_floats = std::max(b_floats, packed * kPanel *
                                      ops.Words(std::min(plan.block,
                                                         job.terms)));
    plans.push_back(plan);
  }
  if (plans.empty()) return;
  thread_local Scratch scratch;
  float* packed_a = scratch.Get(a_floats);
  for (size_t i = 0; i < plans.size(); ++i) {
    plans[i].packed_a = packed_a + at[i];
  }
  // Every thread sees this one's plans.
  const std::span<const Plan> all(plans);
  const std::span<const size_t> pack(to_pack);
  const bool alone = numbers <= kAlone || tasks == 1;
  if (alone) {
    for (const size_t i : pack) {
      for (int64_t t = 0; t < all[i].tiles; t += kPackTiles) {
        PackA(ops, all[i], t);
      }
    }
  }
#pragma omp parallel if (tasks > 1)
  {
    for (size_t i = 0; i < pack.size() && !alone; ++i) {
      const Plan& plan = all[pack[i]];
#pragma omp for schedule(static) nowait
      for (int64_t t = 0; t < plan.tiles; t += kPackTiles) {
        PackA(ops, plan, t);
      }
    }
    if (!alone) {
#pragma omp barrier
    }
    thread_local Scratch b_scratch;
    float* packed_b = b_scratch.Get(b_floats);
    size_t plan = 0;
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t task = 0; task < tasks; ++task) {
      // A thread's tasks come in ascending order.
      while (plan + 1 < all.size() && all[plan + 1].first_task <= task) ++plan;
      RunTask(ops, all[plan], task - all[plan].first_task, packed_b);
    }
  }
}

}  // namespace motet::math::cpu
