// SPDX-License-Identifier: Apache-2.0
// Inner loops over rows: exp and what is made of it, norms, rotation, AdamW.
namespace motet::math::cpu::MOTET_ISA {
namespace {

// Runs body(offset, load, store) over n floats: whole vectors, then a tail
// whose load pads with zeros and whose store writes only what is there.
struct WholeLoad {
  Vec operator()(const float* p) const { return Load(p); }
};
struct WholeStore {
  void operator()(float* p, Vec v) const { Store(p, v); }
};
struct TailLoad {
  int64_t n;
  Vec operator()(const float* p) const { return LoadFirst(p, n); }
};
struct TailStore {
  int64_t n;
  void operator()(float* p, Vec v) const { StoreFirst(p, v, n); }
};
template <typename Body>
inline void Each(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, WholeLoad(), WholeStore());
  if (i < n) body(i, TailLoad{n - i}, TailStore{n - i});
}

void AddRow(const float* a, const float* b, int64_t n, float* y) {
  Each(n, [&](int64_t i, auto load, auto store) {
    store(y + i, Add(load(a + i), load(b + i)));
  });
}

void AddScaledRow(const float* a, float s, const float* b, int64_t n,
                  float* y) {
  Each(n, [&](int64_t i, auto load, auto store) {
    const Vec scaled = Mul(Set(s), load(b + i));
    store(y + i,
          a == nullptr ? scaled : Fma(Set(s), load(b + i), load(a + i)));
  });
}

void ScaleRow(float a, const float* x, int64_t n, float* y) {
  Each(n, [&](int64_t i, auto load, auto store) {
    store(y + i, Mul(Set(a), load(x + i)));
  });
}

void DropoutRow(const DropoutMask& mask, int64_t first, const float* x,
                int64_t n, bool accumulate, float* y) {
  const auto place = static_cast<uint32_t>(first);
  // Made in a small block first: the loop over integers becomes vectors.
  constexpr int64_t kBlock = 8 * kLanes;
  alignas(64) float factors[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t here = n - i < kBlock ? n - i : kBlock;
    for (uint32_t j = 0; j < kBlock; ++j) {
      factors[j] = DropoutFactor(mask, place + static_cast<uint32_t>(i) + j);
    }
    Each(here, [&](int64_t j, auto load, auto store) {
      const Vec k = load(factors + j);
      store(y + i + j, accumulate ? Fma(k, load(x + i + j), load(y + i + j))
                                  : Mul(k, load(x + i + j)));
    });
  }
}

constexpr float kInfinity = __builtin_inff();
constexpr float kExpLow = -87.3f;

// exp by 2^n times a polynomial (Cephes), within 2 units in the last place;
// 0 below -87.3, held at 88 above, NaN stays NaN.
inline Vec Exp(Vec x) {
  const Vec in = Min(Set(88.0f), Max(Set(kExpLow), x));
  const Vec n = Round(Mul(in, Set(1.44269504088896341f)));
  Vec r = Fma(n, Set(-0.693359375f), in);
  r = Fma(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, Mul(r, r), Add(r, Set(1.0f)));
  return ZeroBelow(x, kExpLow, Scale(p, n));
}

void SoftmaxBlock(float* scores, int64_t block, int64_t visible, float scale,
                  float* top, float* total, float* out, int64_t vectors) {
  Vec largest = Set(-kInfinity);
  for (int64_t j = 0; j < block; j += kLanes) {
    const Vec s = KeepFirst(Mul(Load(scores + j), Set(scale)), visible - j,
                            -kInfinity);
    Store(scores + j, s);
    largest = Max(largest, s);
  }
  const float block_top = Largest(largest);
  const float new_top = block_top > *top ? block_top : *top;
  Vec sum = Zero();
  for (int64_t j = 0; j < block; j += kLanes) {
    const Vec p = Exp(Sub(Load(scores + j), Set(new_top)));
    Store(scores + j, p);
    sum = Add(sum, p);
  }
  const float block_total = Sum(sum);
  if (new_top == *top) {
    *total += block_total;
    return;
  }
  alignas(64) float correction[kLanes];
  Store(correction, Exp(Set(*top - new_top)));
  *total = *total * correction[0] + block_total;
  for (int64_t v = 0; v < vectors; ++v) {
    Store(out + v * kLanes, Mul(Load(out + v * kLanes), Load(correction)));
  }
  *top = new_top;
}

void SoftmaxBlockBackward(float* scores, float* dp, int64_t block,
                          int64_t visible, float scale, float lse,
                          float inner) {
  for (int64_t j = 0; j < block; j += kLanes) {
    const Vec s = Fma(Load(scores + j), Set(scale), Set(-lse));
    const Vec p = KeepFirst(Exp(s), visible - j, 0.0f);
    Store(scores + j, p);
    Store(dp + j,
          Mul(Mul(p, Sub(Load(dp + j), Set(inner))), Set(scale)));
  }
}

void RmsNormRows(const float* x, const float* w, float eps, int64_t rows,
                 int64_t cols, float* y, float* inverse_rms) {
  for (int64_t m = 0; m < rows; ++m) {
    const float* in = x + m * cols;
    const float mean = Dot(in, in, cols) / static_cast<float>(cols);
    const float r = 1.0f / __builtin_sqrtf(mean + eps);
    if (inverse_rms != nullptr) inverse_rms[m] = r;
    Each(cols, [&](int64_t c, auto load, auto store) {
      store(y + m * cols + c,
            Mul(load(w + c), Mul(load(in + c), Set(r))));
    });
  }
}

void RmsNormRowsBackward(const float* x, const float* w,
                         const float* inverse_rms, const float* dy,
                         int64_t rows, int64_t cols, float* dx, bool add,
                         float* dw) {
  for (int64_t m = 0; m < rows; ++m) {
    const float* in = x + m * cols;
    const float* d = dy + m * cols;
    const Vec r = Set(inverse_rms[m]);
    if (dw != nullptr) {
      Each(cols, [&](int64_t c, auto load, auto store) {
        store(dw + c, Fma(load(d + c), Mul(load(in + c), r), load(dw + c)));
      });
    }
    if (dx == nullptr) continue;
    Vec sum = Zero();
    Each(cols, [&](int64_t c, auto load, auto) {
      sum = Fma(Mul(load(w + c), load(d + c)), Mul(load(in + c), r), sum);
    });
    const Vec mean = Set(Sum(sum) / static_cast<float>(cols));
    float* out = dx + m * cols;
    Each(cols, [&](int64_t c, auto load, auto store) {
      const Vec own = Mul(load(w + c), load(d + c));
      const Vec along = Mul(Mul(load(in + c), r), mean);
      const Vec before = add ? load(out + c) : Zero();
      store(out + c, Fma(r, Sub(own, along), before));
    });
  }
}

void LayerNormRows(const float* x, const float* w, const float* b, float eps,
                   int64_t rows, int64_t cols, float* y, float* moments) {
  for (int64_t m = 0; m < rows; ++m) {
    const float* in = x + m * cols;
    Vec sum = Zero();
    Each(cols, [&](int64_t c, auto load, auto) {
      sum = Add(sum, load(in + c));
    });
    const float mean = Sum(sum) / static_cast<float>(cols);
    Vec square = Zero();
    Each(cols, [&](int64_t c, auto load, auto) {
      // Behind a tail the difference would be -mean, not 0.
      const Vec d = KeepFirst(Sub(load(in + c), Set(mean)), cols - c, 0.0f);
      square = Fma(d, d, square);
    });
    const float r =
        1.0f / __builtin_sqrtf(Sum(square) / static_cast<float>(cols) + eps);
    if (moments != nullptr) {
      moments[2 * m] = mean;
      moments[2 * m + 1] = r;
    }
    Each(cols, [&](int64_t c, auto load, auto store) {
      const Vec unit = Mul(Sub(load(in + c), Set(mean)), Set(r));
      store(y + m * cols + c, Fma(load(w + c), unit, load(b + c)));
    });
  }
}

void LayerNormRowsBackward(const float* x, const float* w,
                           const float* moments, const float* dy,
                           int64_t rows, int64_t cols, float* dx, bool add,
                           float* dw) {
  for (int64_t m = 0; m < rows; ++m) {
    const float* in = x + m * cols;
    const float* d = dy + m * cols;
    const Vec mean = Set(moments[2 * m]), r = Set(moments[2 * m + 1]);
    const auto unit = [&](int64_t c, auto load) {
      return Mul(Sub(load(in + c), mean), r);
    };
    if (dw != nullptr) {
      Each(cols, [&](int64_t c, auto load, auto store) {
        store(dw + c, Fma(load(d + c), unit(c, load), load(dw + c)));
      });
    }
    if (dx == nullptr) continue;
    Vec sum = Zero(), inner = Zero();
    Each(cols, [&](int64_t c, auto load, auto) {
      const Vec g = Mul(load(w + c), load(d + c));  // 0 behind a tail
      sum = Add(sum, g);
      inner = Fma(g, unit(c, load), inner);
    });
    const Vec level = Set(Sum(sum) / static_cast<float>(cols));
    const Vec along = Set(Sum(inner) / static_cast<float>(cols));
    float* out = dx + m * cols;
    Each(cols, [&](int64_t c, auto load, auto store) {
      const Vec g = Sub(Mul(load(w + c), load(d + c)), level);
      const Vec rest = Sub(g, Mul(unit(c, load), along));
      const Vec before = add ? load(out + c) : Zero();
      store(out + c, Fma(r, rest, before));
    });
  }
}

// erf(x / sqrt 2), within 2e-7: x times a polynomial in x^2, fitted to the
// least greatest error for |x| <= 5.2; beyond, the value there (1 - 2e-7).
inline Vec Erf(Vec x) {
  constexpr float kEnd = 5.2f;
  constexpr float kFactor[] = {
      4.0477936273e-04f,  -1.1245807400e-03f, 1.2015204411e-03f,
      -1.9570316654e-03f, 5.3248838522e-03f,  -1.0134735145e-02f,
      1.6020180658e-02f,  -2.4706719443e-02f, 3.6267846823e-02f,
      -4.9526900053e-02f, 6.3924647868e-02f,  -7.9850792885e-02f,
      1.0005222261e-01f,  -1.3548761606e-01f, 2.7189996839e-01f};
  const Vec in = Min(Set(kEnd), Max(Set(-kEnd), x));
  const Vec u = Fma(Mul(in, in), Set(2 / (kEnd * kEnd)), Set(-1.0f));
  Vec p = Set(kFactor[0]);
  for (int i = 1; i < 15; ++i) p = Fma(p, u, Set(kFactor[i]));
  return Mul(p, in);
}

// Phi(x): 0 where x is so low that x Phi(x) is below 6e-7.
inline Vec NormalBelow(Vec x) {
  const Vec half = Set(0.5f);
  return ZeroBelow(x, -5.2f, Fma(half, Erf(x), half));
}

void GeluRow(const float* x, const float* bias, int64_t n, float* y) {
  Each(n, [&](int64_t i, auto load, auto store) {
    Vec in = load(x + i);
    if (bias != nullptr) in = Add(in, load(bias + i));
    store(y + i, Mul(in, NormalBelow(in)));
  });
}

void GeluRowBackward(const float* x, const float* dy, int64_t n, bool add,
                     float* dx) {
  Each(n, [&](int64_t i, auto load, auto store) {
    const Vec in = load(x + i);
    const Vec density = Mul(Set(0.39894228040f),
                            Exp(Mul(Mul(Set(-0.5f), in), in)));
    const Vec slope = Fma(in, density, NormalBelow(in));
    const Vec before = add ? load(dx + i) : Zero();
    store(dx + i, Fma(load(dy + i), slope, before));
  });
}

void RopeRow(const float* x, int64_t cols, int64_t head_dim,
             const float* cosine, const float* sine, float sign,
             bool accumulate, float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t h = 0; h < cols; h += head_dim) {
    const float* low = x + h;
    const float* high = low + half;
    float* to_low = out + h;
    float* to_high = to_low + half;
    Each(half, [&](int64_t i, auto load, auto store) {
      const Vec a = load(low + i), b = load(high + i);
      const Vec c = load(cosine + i), s = Mul(load(sine + i), Set(sign));
      Vec first = Sub(Mul(a, c), Mul(b, s));
      Vec second = Add(Mul(b, c), Mul(a, s));
      if (accumulate) {
        first = Add(load(to_low + i), first);
        second = Add(load(to_high + i), second);
      }
      store(to_low + i, first);
      store(to_high + i, second);
    });
  }
}

inline Vec Sigmoid(Vec x) {
  return Div(Set(1.0f), Add(Set(1.0f), Exp(Sub(Zero(), x))));
}

void SwiGluRow(const float* gate, const float* up, int64_t n, float* y) {
  Each(n, [&](int64_t i, auto load, auto store) {
    const Vec g = load(gate + i);
    store(y + i, Mul(Mul(g, Sigmoid(g)), load(up + i)));
  });
}

void SwiGluRowBackward(const float* gate, const float* up, const float* dy,
                       int64_t n, float* dgate, bool add_gate, float* dup,
                       bool add_up) {
  Each(n, [&](int64_t i, auto load, auto store) {
    const Vec g = load(gate + i), s = Sigmoid(g), d = load(dy + i);
    if (dgate != nullptr) {
      const Vec slope =
          Mul(s, Fma(g, Sub(Set(1.0f), s), Set(1.0f)));
      const Vec before = add_gate ? load(dgate + i) : Zero();
      store(dgate + i, Fma(Mul(d, load(up + i)), slope, before));
    }
    if (dup != nullptr) {
      const Vec before = add_up ? load(dup + i) : Zero();
      store(dup + i, Fma(d, Mul(g, s), before));
    }
  });
}

void SoftmaxTotal(const float* x, int64_t n, float* top, float* total) {
  Vec largest = Set(-kInfinity);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) largest = Max(largest, Load(x + i));
  if (i < n) {
    largest = Max(largest,
                  KeepFirst(LoadFirst(x + i, n - i), n - i, -kInfinity));
  }
  *top = Largest(largest);
  const Vec most = Set(*top);
  Vec sum = Zero();
  for (i = 0; i + kLanes <= n; i += kLanes) {
    sum = Add(sum, Exp(Sub(Load(x + i), most)));
  }
  if (i < n) {
    const Vec rest = Exp(Sub(LoadFirst(x + i, n - i), most));
    sum = Add(sum, KeepFirst(rest, n - i, 0.0f));
  }
  *total = Sum(sum);
}

void AddScaledExp(const float* x, int64_t n, float lse, float factor,
                  float* out) {
  Each(n, [&](int64_t i, auto load, auto store) {
    const Vec p = Exp(Sub(load(x + i), Set(lse)));
    store(out + i, Fma(Set(factor), p, load(out + i)));
  });
}

void AdamWRow(float* parameter, const float* gradient, float* m, float* v,
              int64_t n, const AdamWStep& step) {
  Each(n, [&](int64_t i, auto load, auto store) {
    const Vec g = Mul(Set(step.gradient_scale), load(gradient + i));
    const Vec first = Fma(Set(step.beta1), load(m + i),
                          Mul(Set(1.0f - step.beta1), g));
    const Vec second = Fma(Set(step.beta2), load(v + i),
                           Mul(Set(1.0f - step.beta2), Mul(g, g)));
    store(m + i, first);
    store(v + i, second);
    const Vec root = Fma(Sqrt(second), Set(step.root_correction),
                         Set(step.eps));
    const Vec kept = Mul(load(parameter + i), Set(step.keep));
    store(parameter + i, Fma(Set(-step.rate), Div(first, root), kept));
  });
}

}  // namespace

const Isa kIsa = {MOTET_ISA_NAME,
                  kF32Panels,
                  {},
                  Dot,
                  WidenRow,
                  NarrowRow,
                  AddRow,
                  AddScaledRow,
                  DropoutRow,
                  GeluRow,
                  GeluRowBackward,
                  ScaleRow,
                  Axpy,
                  SoftmaxBlock,
                  SoftmaxBlockBackward,
                  RmsNormRows,
                  RmsNormRowsBackward,
                  LayerNormRows,
                  LayerNormRowsBackward,
                  RopeRow,
                  SwiGluRow,
                  SwiGluRowBackward,
                  SoftmaxTotal,
                  AddScaledExp,
                  AdamWRow};

}  // namespace motet::math::cpu::MOTET_ISA
