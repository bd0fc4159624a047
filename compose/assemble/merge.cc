// SPDX-License-Identifier: Apache-2.0
// Pieces, threads and passes; the arithmetic is in merge_math.cc. A batch is
// cut in pieces that threads take, and goes to the sink as one.
#include "compose/assemble/merge.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "compose/assemble/merge_math.h"
#include "compose/assemble/merge_piece.h"
#include "compose/assemble/merge_select.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using math::DType;
using math::Tensor;

// Of all parties 2 MiB a thread: they fit the second-level cache, and memory
// stays small with many models and threads.
constexpr int64_t kPieces = int64_t{1} << 19;
constexpr int64_t kBatchPieces = 64;

// What the last pass needs of a tensor beside its numbers.
struct TensorPlan {
  std::vector<double> weights;          // of WeightedSum
  double base_weight = 0;
  std::vector<RadixSelect> selects;     // ties, [J]
  bool keeps_nothing = false;
  std::vector<std::vector<uint64_t>> ties;  // [J][pieces], when they matter
  std::vector<uint64_t> keys;           // dare, [J]
};

class Merger {
 public:
  Merger(const MergeRule& rule, const std::vector<MergeTensor>& tensors,
         const MergeStream& stream)
      : rule_(rule), tensors_(tensors), stream_(stream) {
    for (const MergeTensor& t : tensors) {
      models_ = std::max(models_, t.models.size());
      size_ += t.base.size();
    }
    with_base_ = models_ == 0 || rule.kind == MergeKind::kTaskArithmetic ||
                 rule.kind == MergeKind::kTies ||
                 rule.kind == MergeKind::kDare ||
                 rule.kind == MergeKind::kPcb;
    for (const MergeTensor& t : tensors) bytes_ += BytesOf(t);
    if (!tensors.empty()) parties_ = 1 + models_ + tensors[0].fishers.size();
    piece_ = kMostPiece;
    while (piece_ * static_cast<int64_t>(parties_) > kPieces) piece_ /= 2;
    for (int thread = 0; thread < omp_get_max_threads(); ++thread) {
      pieces_.push_back(std::make_unique<Piece>(parties_, piece_));
    }
  }

  absl::Status Run() {
    const bool base_only = models_ == 0;
    const bool ties = rule_.kind == MergeKind::kTies && rule_.density < 1;
    const bool pcb = rule_.kind == MergeKind::kPcb && !base_only;
    // ties: three counts, and perhaps a fourth; slerp: one; pcb: four.
    total_ = bytes_ * (1 + (base_only                           ? 0
                            : ties                              ? 4
                            : rule_.kind == MergeKind::kSlerp   ? 1
                            : pcb                               ? 4
                                                                : 0));
    if (pcb) MeasurePcb();
    for (const MergeTensor& t : tensors_) {
      const TensorPlan plan = PlanTensor(t);
      MOTET_RETURN_IF_ERROR(Write(t, plan));
    }
    if (stream_.progress) stream_.progress(total_, total_);
    return absl::OkStatus();
  }

 private:
  int64_t BytesOf(const MergeTensor& t) const {
    int64_t bytes = with_base_ ? t.base.bytes() : 0;
    for (const Tensor& m : t.models) bytes += m.bytes();
    for (const Tensor& f : t.fishers) bytes += f.bytes();
    return bytes;
  }
  int64_t Pieces(const MergeTensor& t) const {
    return (t.base.size() + piece_ - 1) / piece_;
  }

  // fn(piece number, first element, count, piece, thread's State) for all
  // pieces [from, to) of t, on all threads; done(state) for each thread, one
  // after another.
  template <typename State, typename Fn, typename Done>
  void Each(const MergeTensor& t, int64_t from, int64_t to, Fn fn,
            Done done) {
#pragma omp parallel if (to - from > 1)
    {
      Piece& piece = *pieces_[omp_get_thread_num()];
      auto state = std::make_unique<State>(models_);
#pragma omp for schedule(dynamic, 1)
      for (int64_t p = from; p < to; ++p) {
        const int64_t first = p * piece_;
        const int64_t n = std::min(piece_, t.base.size() - first);
        piece.Load(t, with_base_, first, n);
        fn(p, first, n, piece, *state);
      }
#pragma omp critical(motet_merge)
      done(*state);
    }
  }
  // One pass over a tensor that makes nothing.
  template <typename State, typename Fn, typename Done>
  void Measure(const MergeTensor& t, Fn fn, Done done) {
    for (int64_t from = 0; from < Pieces(t); from += kBatchPieces) {
      const int64_t to = std::min(from + kBatchPieces, Pieces(t));
      Each<State>(t, from, to, fn, done);
      Passed(t, from, to);
    }
  }
  void Passed(const MergeTensor& t, int64_t from, int64_t to) {
    const int64_t first = from * piece_;
    const int64_t n = std::min(to * piece_, t.base.size()) - first;
    const auto pass = [&](const Tensor& whole) {
      const Tensor part = Slice(whole, first, n);
      done_ += part.bytes();
      if (stream_.let_go) stream_.let_go(part);
    };
    if (with_base_) pass(t.base);
    for (const Tensor& m : t.models) pass(m);
    for (const Tensor& f : t.fishers) pass(f);
    if (stream_.progress) stream_.progress(std::min(done_, total_), total_);
  }

  TensorPlan PlanTensor(const MergeTensor& t) {
    TensorPlan plan;
    plan.weights = rule_.weights;
    switch (rule_.kind) {
      case MergeKind::kSlerp:
        if (models_ == 2) PlanSlerp(t, plan);
        break;
      case MergeKind::kTies:
        if (rule_.density < 1) PlanTies(t, plan);
        break;
      case MergeKind::kTaskArithmetic:
      case MergeKind::kDare: {
        const double scale = rule_.kind == MergeKind::kDare
                                 ? rule_.lambda / rule_.density
                                 : rule_.lambda;
        plan.base_weight = 1;
        for (double& w : plan.weights) {
          w *= scale;
          plan.base_weight -= w;
        }
        for (size_t j = 0; j < models_ && j < rule_.keys.size(); ++j) {
          plan.keys.push_back(DareKey(rule_.seed, rule_.keys[j], t.name));
        }
        break;
      }
      default:
        break;
    }
    return plan;
  }

  void PlanSlerp(const MergeTensor& t, TensorPlan& plan) {
    struct Nothing {
      explicit Nothing(size_t) {}
    };
    std::vector<SlerpSums> pieces(Pieces(t));
    Measure<Nothing>(
        t,
        [&](int64_t p, int64_t, int64_t n, Piece& piece, Nothing&) {
          pieces[p] = SlerpDot(piece.model(0), piece.model(1), n);
        },
        [](Nothing&) {});
    SlerpSums sums;
    for (const SlerpSums& piece : pieces) sums += piece;
    const auto [a, b] = SlerpWeights(sums, rule_.t);
    plan.weights = {a, b};
  }

  struct Counts {
    explicit Counts(size_t models) : of(models) {}
    std::vector<RadixSelect::Counts> of;
  };
  static uint32_t TauKey(const Piece& piece, size_t j, int64_t i) {
    return KeyOf(std::abs(piece.model(j)[i] - piece.base()[i]));
  }

  // floor(density n) elements of each task vector, by magnitude.
  void PlanTies(const MergeTensor& t, TensorPlan& plan) {
    const int64_t size = t.base.size();
    const auto kept =
        static_cast<uint64_t>(rule_.density * static_cast<double>(size));
    if (kept == 0) {  // a key above every number's: nothing stays
      plan.selects.assign(models_, RadixSelect(1));
      plan.keeps_nothing = true;
      return;
    }
    plan.selects.assign(models_, RadixSelect(kept));
    for (int pass = 0; pass < RadixSelect::kPasses; ++pass) {
      Measure<Counts>(
          t,
          [&](int64_t, int64_t, int64_t n, Piece& piece, Counts& counts) {
            for (size_t j = 0; j < models_; ++j) {
              for (int64_t i = 0; i < n; ++i) {
                plan.selects[j].Count(TauKey(piece, j, i), counts.of[j]);
              }
            }
          },
          [&](Counts& counts) {
            for (size_t j = 0; j < models_; ++j) {
              plan.selects[j].Add(counts.of[j]);
            }
          });
      for (RadixSelect& select : plan.selects) select.Next();
    }
    CountTies(t, plan);
  }

  // Which pieces' ties stay: the first ones, as many as are wanted.
  void CountTies(const MergeTensor& t, TensorPlan& plan) {
    plan.ties.assign(models_, {});
    bool all = true;
    for (const RadixSelect& s : plan.selects) {
      all = all && s.equal() == s.wanted();
    }
    if (all) {
      done_ += BytesOf(t);
      return;
    }
    for (auto& ties : plan.ties) ties.assign(Pieces(t), 0);
    Measure<Counts>(
        t,
        [&](int64_t p, int64_t, int64_t n, Piece& piece, Counts&) {
          for (size_t j = 0; j < models_; ++j) {
            const uint32_t key = plan.selects[j].key();
            uint64_t equal = 0;
            for (int64_t i = 0; i < n; ++i) {
              equal += TauKey(piece, j, i) == key ? 1 : 0;
            }
            plan.ties[j][p] = equal;
          }
        },
        [](Counts&) {});
    for (size_t j = 0; j < models_; ++j) {
      uint64_t left = plan.selects[j].wanted();
      for (uint64_t& piece : plan.ties[j]) {
        piece = std::min(piece, left);
        left -= piece;
      }
    }
  }

  // Ranges, clips and thresholds over all parameters: |tau| and the scores
  // are counted in four passes, the scores one behind.
  void MeasurePcb() {
    pcb_.assign(models_, {});
    for (PcbRange& r : pcb_) r.least = INFINITY;
    const auto share = [&](double of) {
      return static_cast<uint64_t>(of * static_cast<double>(size_));
    };
    const uint64_t kept = std::max<uint64_t>(1, share(rule_.ratio));
    std::vector<RadixSelect> clips(models_,
                                   RadixSelect(share(rule_.epsilon) + 1));
    std::vector<RadixSelect> scores(models_, RadixSelect(kept));
    std::vector<float> best(models_, -INFINITY);
    for (int pass = 0; pass <= RadixSelect::kPasses; ++pass) {
      for (const MergeTensor& t : tensors_) {
        PassPcb(t, pass, clips, scores, best);
      }
      for (RadixSelect& s : clips) s.Next();
      if (pass == 0) continue;
      for (RadixSelect& s : scores) s.Next();
    }
    for (size_t j = 0; j < models_; ++j) {
      PcbRange& r = pcb_[j];
      r.clip = FromKey(clips[j].key());
      r.key = scores[j].key();
      r.low = FromKey(r.key);
      r.high = best[j];
      // The dropped count as 0.
      if (kept < static_cast<uint64_t>(size_)) {
        r.low = std::min(0.0, r.low);
        r.high = std::max(0.0, r.high);
      }
    }
  }

  struct PcbState {
    explicit PcbState(size_t models)
        : clips(models), scores(models), least(models, INFINITY),
          most(models, 0), best(models, -INFINITY), beta(kMostPiece) {}
    std::vector<RadixSelect::Counts> clips, scores;
    std::vector<float> least, most, best, beta;
  };
  void PassPcb(const MergeTensor& t, int pass,
               std::vector<RadixSelect>& clips,
               std::vector<RadixSelect>& scores, std::vector<float>& best) {
    Measure<PcbState>(
        t,
        [&](int64_t, int64_t, int64_t n, Piece& piece, PcbState& s) {
          for (size_t j = 0; j < models_; ++j) {
            if (pass < RadixSelect::kPasses) {
              for (int64_t i = 0; i < n; ++i) {
                const float tau =
                    std::abs(piece.model(j)[i] - piece.base()[i]);
                s.least[j] = std::min(s.least[j], tau);
                s.most[j] = std::max(s.most[j], tau);
                clips[j].Count(KeyOf(tau), s.clips[j]);
              }
            }
            if (pass == 0) continue;
            PcbScores(piece.base(), piece.models(), j, pcb_[j], n,
                      s.beta.data());
            for (int64_t i = 0; i < n; ++i) {
              s.best[j] = std::max(s.best[j], s.beta[i]);
              scores[j].Count(KeyOf(s.beta[i]), s.scores[j]);
            }
          }
        },
        [&](PcbState& s) {
          for (size_t j = 0; j < models_; ++j) {
            if (pass < RadixSelect::kPasses) clips[j].Add(s.clips[j]);
            if (pass == 0) {
              pcb_[j].least = std::min(pcb_[j].least, s.least[j]);
              pcb_[j].most = std::max(pcb_[j].most, s.most[j]);
            } else {
              scores[j].Add(s.scores[j]);
              best[j] = std::max(best[j], s.best[j]);
            }
          }
        });
  }

  void Combine(const TensorPlan& plan, int64_t p, int64_t first, int64_t n,
               Piece& piece, float* out) const {
    switch (rule_.kind) {
      case MergeKind::kLinear:
      case MergeKind::kWeighted:
      case MergeKind::kSlerp:
      case MergeKind::kTaskArithmetic:
        break;
      case MergeKind::kDare:
        for (size_t j = 0; j < plan.keys.size(); ++j) {
          DropAtRandom(piece.base(), plan.keys[j], rule_.density, first, n,
                       piece.model(j));
        }
        break;
      case MergeKind::kTies:
        for (size_t j = 0; j < plan.selects.size(); ++j) {
          Cut cut;
          cut.key = plan.keeps_nothing ? UINT32_MAX : plan.selects[j].key();
          cut.ties = plan.ties.empty() || plan.ties[j].empty()
                         ? static_cast<uint64_t>(n)
                         : plan.ties[j][p];
          KeepLargest(piece.base(), cut, n, piece.model(j));
        }
        TiesMean(piece.base(), piece.models(), plan.weights, rule_.lambda, n,
                 out);
        return;
      case MergeKind::kPcb:
        PcbMean(piece.base(), piece.models(), pcb_, rule_.lambda, n, out);
        return;
      case MergeKind::kFisher:
        FisherMean(piece.models(), piece.fishers(), plan.weights, n, out);
        return;
    }
    WeightedSum(piece.base(), plan.base_weight, piece.models(), plan.weights,
                n, out);
  }

  absl::Status Write(const MergeTensor& t, const TensorPlan& plan) {
    struct Row {
      explicit Row(size_t) : out(kMostPiece) {}
      std::vector<float> out;
      bool finite = true;
    };
    const DType dtype = MergedDType(t);
    const int64_t element = math::ByteSize(dtype);
    for (int64_t from = 0; from < Pieces(t); from += kBatchPieces) {
      const int64_t to = std::min(from + kBatchPieces, Pieces(t));
      const int64_t base = from * piece_;
      const int64_t n = std::min(to * piece_, t.base.size()) - base;
      if (models_ == 0) {
        const Tensor part = Slice(t.base, base, n);
        MOTET_RETURN_IF_ERROR(
            stream_.sink({static_cast<const char*>(part.data),
                          static_cast<size_t>(part.bytes())}));
        Passed(t, from, to);
        continue;
      }
      out_.resize(n * element);
      bool finite = true;
      Each<Row>(
          t, from, to,
          [&](int64_t p, int64_t first, int64_t count, Piece& piece,
              Row& row) {
            Combine(plan, p, first, count, piece, row.out.data());
            row.finite = row.finite && AllFinite(row.out.data(), count, dtype);
            Narrow(row.out.data(), count, dtype,
                   out_.data() + (first - base) * element);
          },
          [&](Row& row) { finite = finite && row.finite; });
      if (!finite) {
        return proto::Error(absl::StatusCode::kDataLoss, "merge",
                            absl::StrCat("numbers in ", t.name,
                                         " that are not finite"),
                            absl::StrCat("numbers that ", math::Name(dtype),
                                         " holds"),
                            "check the models, or choose smaller options");
      }
      MOTET_RETURN_IF_ERROR(stream_.sink(out_));
      Passed(t, from, to);
    }
    return absl::OkStatus();
  }

  const MergeRule& rule_;
  const std::vector<MergeTensor>& tensors_;
  const MergeStream& stream_;
  size_t models_ = 0, parties_ = 1;
  bool with_base_ = true;  // kinds that only average do not read it
  int64_t size_ = 0, bytes_ = 0, done_ = 0, total_ = 0, piece_ = 0;
  std::vector<std::unique_ptr<Piece>> pieces_;  // one a thread
  std::vector<PcbRange> pcb_;
  std::string out_;
};

}  // namespace

math::DType MergedDType(const MergeTensor& tensor) {
  if (tensor.models.empty()) return tensor.base.dtype;
  const DType first = tensor.models[0].dtype;
  for (const Tensor& m : tensor.models) {
    if (m.dtype != first) return DType::kF32;
  }
  return first;
}

absl::Status MergeTensors(const MergeRule& rule,
                          const std::vector<MergeTensor>& tensors,
                          const MergeStream& stream) {
  return Merger(rule, tensors, stream).Run();
}

}  // namespace motet::assemble
