// SPDX-License-Identifier: Apache-2.0
// A routing report as JSON, as CSV, and as heat maps: one file, no script, no
// outside font or style, so that it opens anywhere. One colour from white to
// dark blue by the share of tokens; each cell also says its number, in its
// tooltip where it is too small to print it.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "compose/measure/routing.h"
#include "nlohmann/json.hpp"

namespace motet::measure {
namespace {

// Plain JSON has no NaN.
nlohmann::ordered_json Number(double value) {
  return std::isnan(value) ? nlohmann::ordered_json(nullptr)
                           : nlohmann::ordered_json(value);
}

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(
      text,
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Shorten(const std::string& text, size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 1) + "~";
}

std::string Percent(double share) {
  return absl::StrFormat(share > 0 && share < 0.0095 ? "%.1f" : "%.0f",
                         100 * share);
}

std::string Plain(double value) {
  return std::isnan(value) ? "-" : absl::StrFormat("%.2f", value);
}

// The root spreads the low shares, where mixtures of many experts lie.
std::string Fill(double share) {
  const double t = std::sqrt(std::clamp(share, 0.0, 1.0));
  const auto mix = [t](double a, double b) {
    return static_cast<int>(std::lround(a + (b - a) * t));
  };
  return absl::StrFormat("#%02x%02x%02x", mix(250, 8), mix(250, 64),
                         mix(250, 129));
}

void Text(std::string& svg, double x, double y, const std::string& style,
          const std::string& text) {
  absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x,
                        y, style, Escape(text));
}

constexpr int kMargin = 24, kTop = 96, kCellHeight = 20, kHead = 64;
constexpr int kNumber = 50;  // a column of entropy, SRP or SCH
constexpr char kGrey[] = "font-size=\"11\" fill=\"#555\"";

struct Grid {
  int cell, left, width, height;
};
Grid GridOf(const RoutingReport& r) {
  const auto experts = static_cast<int>(r.experts.size());
  const auto layers = static_cast<int>(r.domains.at(0).layers.size());
  Grid grid;
  grid.cell = experts <= 8 ? 52 : experts <= 16 ? 34 : 18;
  grid.left = 34;
  grid.width = grid.left + experts * grid.cell + 12 + 3 * kNumber + 28;
  grid.height = kHead + layers * kCellHeight + 28;
  return grid;
}

void Panel(const RoutingReport& r, const DomainRouting& domain,
           const Grid& grid, double x, double y, std::string& svg) {
  Text(svg, x, y + 16, "font-size=\"14\" font-weight=\"bold\" fill=\"#222\"",
       Shorten(domain.name, 40));
  Text(svg, x, y + 32, kGrey,
       absl::StrCat(domain.tokens, " tokens of ", domain.documents,
                    " documents"));
  const double top = y + kHead, cells = x + grid.left;
  const double numbers =
      cells + static_cast<double>(r.experts.size()) * grid.cell + 12;
  for (size_t e = 0; e < r.experts.size(); ++e) {
    Text(svg, cells + (static_cast<double>(e) + 0.5) * grid.cell, top - 7,
         "text-anchor=\"middle\" font-size=\"11\" fill=\"#222\"",
         Shorten(r.experts[e], static_cast<size_t>(grid.cell / 6)));
  }
  const char* const heads[] = {"bits", "SRP", "SCH"};
  for (int i = 0; i < 3; ++i) {
    Text(svg, numbers + (i + 1) * kNumber - 4, top - 7,
         "text-anchor=\"end\" font-size=\"11\" font-style=\"italic\" "
         "fill=\"#555\"",
         heads[i]);
  }
  for (size_t l = 0; l < domain.layers.size(); ++l) {
    const LayerRouting& layer = domain.layers[l];
    const double row = top + static_cast<double>(l) * kCellHeight;
    Text(svg, cells - 8, row + 14,
         "text-anchor=\"end\" font-size=\"11\" fill=\"#555\"",
         absl::StrCat(l));
    for (size_t e = 0; e < layer.share.size(); ++e) {
      const double left = cells + static_cast<double>(e) * grid.cell;
      absl::StrAppendFormat(
          &svg,
          "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" "
          "fill=\"%s\" stroke=\"#fff\"><title>layer %d, %s: %.2f %% of "
          "tokens, mean weight %.3f</title></rect>\n",
          left, row, grid.cell, kCellHeight, Fill(layer.share[e]),
          static_cast<int>(l), Escape(r.experts[e]), 100 * layer.share[e],
          layer.weight[e]);
      if (grid.cell < 30) continue;
      Text(svg, left + grid.cell / 2.0, row + 14,
           absl::StrCat("text-anchor=\"middle\" font-size=\"11\" ",
                        "pointer-events=\"none\" fill=\"",
                        layer.share[e] > 0.25 ? "#fff" : "#222", "\""),
           Percent(layer.share[e]));
    }
    const double values[] = {layer.entropy, layer.srp, layer.sch};
    for (int i = 0; i < 3; ++i) {
      Text(svg, numbers + (i + 1) * kNumber - 4, row + 14,
           "text-anchor=\"end\" font-size=\"11\" fill=\"#222\"",
           Plain(values[i]));
    }
  }
}

void Legend(double x, double y, std::string& svg) {
  Text(svg, x, y + 13, kGrey, "% of tokens");
  const double shares[] = {0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1};
  x += 78;
  for (const double share : shares) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"40\" "
                          "height=\"18\" fill=\"%s\" stroke=\"#ddd\"/>\n",
                          x, y, Fill(share));
    Text(svg, x + 20, y + 13,
         absl::StrCat("text-anchor=\"middle\" font-size=\"11\" fill=\"",
                      share > 0.25 ? "#fff" : "#222", "\""),
         absl::StrFormat("%g", 100 * share));
    x += 40;
  }
}

}  // namespace

std::string RoutingJson(const RoutingReport& r) {
  nlohmann::ordered_json json;
  json["model"] = r.model;
  json["router"] = r.router;
  json["experts"] = r.experts;
  json["segment"] = r.segment;
  json["cache_experts"] = r.cache_experts;
  json["domains"] = nlohmann::ordered_json::array();
  for (const DomainRouting& domain : r.domains) {
    nlohmann::ordered_json d = {{"name", domain.name},
                                {"documents", domain.documents},
                                {"tokens", domain.tokens},
                                {"layers", nlohmann::ordered_json::array()}};
    for (const LayerRouting& layer : domain.layers) {
      d["layers"].push_back({{"share", layer.share},
                             {"weight", layer.weight},
                             {"entropy", layer.entropy},
                             {"srp", Number(layer.srp)},
                             {"sch", Number(layer.sch)}});
    }
    json["domains"].push_back(std::move(d));
  }
  return json.dump(2, ' ', false,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

std::string RoutingCsv(const RoutingReport& r) {
  const auto quoted = [](const std::string& field) {
    return absl::StrCat("\"", absl::StrReplaceAll(field, {{"\"", "\"\""}}),
                        "\"");
  };
  const auto number = [](double value) {
    return std::isnan(value) ? std::string() : absl::StrFormat("%.9g", value);
  };
  std::string out = "domain,layer,expert,share,weight,entropy,srp,sch\n";
  for (const DomainRouting& domain : r.domains) {
    for (size_t l = 0; l < domain.layers.size(); ++l) {
      const LayerRouting& layer = domain.layers[l];
      for (size_t e = 0; e < layer.share.size(); ++e) {
        absl::StrAppend(&out, quoted(domain.name), ",", l, ",",
                        quoted(r.experts[e]), ",", number(layer.share[e]),
                        ",", number(layer.weight[e]), ",",
                        number(layer.entropy), ",", number(layer.srp), ",",
                        number(layer.sch), "\n");
      }
    }
  }
  return out;
}

std::string RoutingSvg(const RoutingReport& r) {
  const Grid grid = GridOf(r);
  const int panels = static_cast<int>(r.domains.size());
  const int across = std::clamp(1400 / grid.width, 1, panels);
  const int down = (panels + across - 1) / across;
  const int width = std::max(2 * kMargin + across * grid.width, 640);
  const int height = kTop + down * grid.height + 44;
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
      "viewBox=\"0 0 %d %d\" font-family=\"Helvetica, Arial, sans-serif\">\n",
      width, height, width, height);
  const std::string title = absl::StrCat("Who answers: ", r.model);
  absl::StrAppend(&svg, "<title>", Escape(title), "</title>\n",
                  "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
  Text(svg, kMargin, 34, "font-size=\"18\" font-weight=\"bold\" fill=\"#222\"",
       title);
  Text(svg, kMargin, 56, "font-size=\"12\" fill=\"#555\"",
       absl::StrCat("router ", r.router,
                    ": % of a domain's tokens that each expert answers; "
                    "layers down, experts across"));
  Text(svg, kMargin, 72, "font-size=\"12\" fill=\"#555\"",
       absl::StrCat("bits: entropy of the shares; SRP: best F1 of a fixed "
                    "group for ",
                    r.segment, " tokens; SCH: hit rate of a cache of ",
                    r.cache_experts, r.cache_experts == 1 ? " expert"
                                                          : " experts"));
  for (int p = 0; p < panels; ++p) {
    Panel(r, r.domains[static_cast<size_t>(p)], grid,
          kMargin + (p % across) * grid.width,
          kTop + (p / across) * grid.height, svg);
  }
  Legend(kMargin, kTop + down * grid.height + 6, svg);
  absl::StrAppend(&svg, "</svg>\n");
  return svg;
}

}  // namespace motet::measure
