// SPDX-License-Identifier: Apache-2.0
// The matrix as a heat map. One file, no script, no outside font or style, so
// that it opens anywhere. Colour is the logarithm of the ratio to the base in
// the same column: blue better, orange worse, white equal (a pair of colours
// that the common colour-vision deficiencies keep apart); the number is
// always printed too.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/measure/matrix.h"

namespace motet::measure {
namespace {

constexpr int kMargin = 24, kCellWidth = 84, kCellHeight = 30, kGap = 14;
constexpr int kTop = 112, kLegend = 66;

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (static_cast<unsigned char>(c) < 0x20) out += ' ';
    else out += c;
  }
  return out;
}

std::string Shorten(const std::string& text, size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 1) + "~";
}

struct Colour {
  double r, g, b;
};
// ratio 1 is white; half of the base or less is full blue, 1.5 times or more
// full orange.
std::string Fill(double ratio) {
  const Colour white = {250, 250, 250}, blue = {33, 113, 181},
               orange = {230, 97, 1};
  const bool better = ratio < 1;
  const double t = std::clamp(
      std::log(ratio) / std::log(better ? 0.5 : 1.5),
      0.0, 1.0);
  const Colour& to = better ? blue : orange;
  const auto mix = [&](double a, double b) {
    return static_cast<int>(std::lround(a + (b - a) * t));
  };
  return absl::StrFormat("#%02x%02x%02x", mix(white.r, to.r),
                         mix(white.g, to.g), mix(white.b, to.b));
}
bool IsDark(double ratio) { return ratio < 0.66 || ratio > 1.38; }

void Text(std::string& svg, double x, double y, const char* anchor, int size,
          const char* style, const std::string& text) {
  absl::StrAppendFormat(
      &svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\" "
            "%s>%s</text>\n",
      x, y, anchor, size, style, Escape(text));
}

struct Column {
  std::string title;
  bool owners;  // the domain of an expert
  bool mean;
  std::vector<double> values;  // [models]
};

std::vector<Column> Columns(const Matrix& m) {
  std::vector<Column> columns;
  for (size_t d = 0; d < m.domains.size(); ++d) {
    Column column = {m.domains[d], m.is_owners[d], false, {}};
    for (const auto& row : m.values) column.values.push_back(row[d]);
    columns.push_back(std::move(column));
  }
  if (!m.owners.empty()) columns.push_back({"owners", false, true, m.owners});
  columns.push_back({"all", false, true, m.all});
  return columns;
}

void Legend(std::string& svg, double x, double y) {
  const double ratios[] = {0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5};
  Text(svg, x, y + 13, "start", 11, "fill=\"#555\"", "ratio to the base");
  x += 110;
  for (const double ratio : ratios) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"40\" "
                          "height=\"18\" fill=\"%s\"/>\n",
                          x, y, Fill(ratio));
    Text(svg, x + 20, y + 13, "middle", 11,
         IsDark(ratio) ? "fill=\"#fff\"" : "fill=\"#222\"",
         absl::StrFormat("%g", ratio));
    x += 40;
  }
}

}  // namespace

std::string MatrixSvg(const Matrix& m) {
  const std::vector<Column> columns = Columns(m);
  size_t longest = 8;
  for (const auto& name : m.models) longest = std::max(longest, name.size());
  longest = std::min<size_t>(longest, 40);
  const int left = kMargin + static_cast<int>(longest) * 8 + 12;
  const int cells = static_cast<int>(columns.size()) * kCellWidth + kGap;
  std::string title =
      absl::StrCat(m.measure, " by model and domain: ", m.composition);
  title[0] = absl::ascii_toupper(static_cast<unsigned char>(title[0]));
  const int heading = static_cast<int>(title.size()) * 10;
  const int width =
      std::max({left + cells + kMargin, 2 * kMargin + heading, 640});
  const int height =
      kTop + static_cast<int>(m.models.size()) * kCellHeight + kLegend;

  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
      "viewBox=\"0 0 %d %d\" font-family=\"Helvetica, Arial, sans-serif\">\n",
      width, height, width, height);
  absl::StrAppend(&svg, "<title>", Escape(title), "</title>\n",
                  "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
  Text(svg, kMargin, 34, "start", 18, "font-weight=\"bold\" fill=\"#222\"",
       title);
  Text(svg, kMargin, 56, "start", 12, "fill=\"#555\"",
       absl::StrCat("router ", m.router, ", windows of ", m.window,
                    " tokens; lower is better; blue beats the base, orange "
                    "loses to it"));
  Text(svg, kMargin, 72, "start", 12, "fill=\"#555\"",
       "framed: best of its column; owners, all: geometric means over "
       "owners' domains and over all");

  // Perplexities differ in units, the other measures in hundredths.
  const bool fine = m.measure != "perplexity";
  for (size_t r = 0; r < m.models.size(); ++r) {
    const double y = kTop + static_cast<double>(r) * kCellHeight;
    Text(svg, left - 10, y + 20, "end", 13,
         m.kinds[r] == "composition" ? "font-weight=\"bold\" fill=\"#222\""
                                     : "fill=\"#222\"",
         Shorten(m.models[r], longest));
  }
  double x = left;
  for (const Column& column : columns) {
    const bool first_mean = column.mean && (&column == &columns.front() ||
                                            !(&column - 1)->mean);
    if (first_mean) x += kGap;
    const double base = column.values.empty() ? 1 : column.values[0];
    const double best =
        *std::min_element(column.values.begin(), column.values.end());
    Text(svg, x + kCellWidth / 2.0, kTop - 10, "middle", 13,
         column.mean ? "font-style=\"italic\" fill=\"#222\""
                     : (column.owners ? "font-weight=\"bold\" fill=\"#222\""
                                      : "fill=\"#222\""),
         Shorten(column.title, 12));
    for (size_t r = 0; r < column.values.size(); ++r) {
      const double y = kTop + static_cast<double>(r) * kCellHeight;
      const double value = column.values[r], ratio = value / base;
      absl::StrAppendFormat(
          &svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" "
                "fill=\"%s\" stroke=\"#fff\"/>\n",
          x, y, kCellWidth, kCellHeight, Fill(ratio));
      if (value == best) {
        absl::StrAppendFormat(
            &svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" "
                  "fill=\"none\" stroke=\"#111\" stroke-width=\"2\"/>\n",
            x + 2, y + 2, kCellWidth - 4, kCellHeight - 4);
      }
      const bool bold = value == best;
      const std::string style = absl::StrCat(
          IsDark(ratio) ? "fill=\"#fff\"" : "fill=\"#222\"",
          bold ? " font-weight=\"bold\"" : "");
      Text(svg, x + kCellWidth / 2.0, y + 20, "middle", 13, style.c_str(),
           fine ? absl::StrFormat("%.3f", value)
                : absl::StrFormat(value < 9.995 ? "%.2f" : "%.1f", value));
    }
    x += kCellWidth;
  }
  Legend(svg, kMargin,
         kTop + static_cast<double>(m.models.size()) * kCellHeight + 26);
  absl::StrAppend(&svg, "</svg>\n");
  return svg;
}

}  // namespace motet::measure
