// SPDX-License-Identifier: Apache-2.0
#include "compose/model/unicode_normal.h"

#include <algorithm>
#include <vector>

#include "compose/model/unicode.h"
#include "compose/model/unicode_data.h"

namespace motet::model {
namespace {

struct Placed {
  char32_t c;
  uint8_t combining;
};

// True when some character has the property: then there is work to do. No
// character below U+0080 has one but for lower case.
bool Any(const std::string& text, uint16_t property, char32_t from) {
  const UnicodeData& data = UnicodeData::Get();
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < from) {
      ++at;
    } else if (data.Properties(NextCodePoint(text, at)) & property) {
      return true;
    }
  }
  return false;
}

void PutDecomposed(char32_t c, std::vector<Placed>& to) {
  const UnicodeData& data = UnicodeData::Get();
  const auto [a, b] = data.Decompose(c);
  if (a == c) {
    to.push_back({c, data.CombiningClass(c)});
    return;
  }
  PutDecomposed(a, to);
  if (b != 0) PutDecomposed(b, to);
}

// Decomposed, with runs of marks in the order of their classes.
std::vector<Placed> Decomposed(const std::string& text) {
  std::vector<Placed> all;
  all.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    PutDecomposed(NextCodePoint(text, at), all);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].combining == 0) continue;
    size_t end = i;
    while (end < all.size() && all[end].combining != 0) ++end;
    std::stable_sort(all.begin() + i, all.begin() + end,
                     [](const Placed& x, const Placed& y) {
                       return x.combining < y.combining;
                     });
    i = end - 1;
  }
  return all;
}

void Write(const std::vector<Placed>& all, std::string& text) {
  text.clear();
  for (const Placed& p : all) AppendUtf8(p.c, text);
}

}  // namespace

void ToNfd(std::string& text) {
  if (Any(text, kMovesInNfd, 0x80)) Write(Decomposed(text), text);
}

void ToNfc(std::string& text) {
  if (!Any(text, kMovesInNfc, 0x80)) return;
  const UnicodeData& data = UnicodeData::Get();
  std::vector<Placed> all = Decomposed(text);
  // Each character joins the last starter unless one of its class or higher
  // stands between (Unicode 3.11, D117).
  size_t n = 0, starter = 0;
  bool has_starter = false;
  uint8_t last = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const Placed p = all[i];
    const bool adjacent = has_starter && n == starter + 1;
    if (has_starter && (adjacent || last < p.combining)) {
      const char32_t joined = data.Compose(all[starter].c, p.c);
      if (joined != 0) {
        all[starter].c = joined;
        continue;
      }
    }
    if (p.combining == 0) {
      starter = n;
      has_starter = true;
    }
    last = p.combining;
    all[n++] = p;
  }
  all.resize(n);
  Write(all, text);
}

void ToLower(std::string& text) {
  if (!Any(text, kHasLower, 0)) return;
  const UnicodeData& data = UnicodeData::Get();
  std::string lower;
  lower.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const unsigned char byte = text[at];
    if (byte < 0x80) {
      lower += static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte + 32
                                                            : byte);
      ++at;
      continue;
    }
    const char32_t c = NextCodePoint(text, at);
    if (c == 0x130) {
      lower += "i\xCC\x87";
    } else {
      AppendUtf8(data.Lower(c), lower);
    }
  }
  text = std::move(lower);
}

}  // namespace motet::model
