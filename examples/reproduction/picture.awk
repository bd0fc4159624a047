# SPDX-License-Identifier: Apache-2.0
# After stats.awk: one of two figures, as SVG on standard output.
#   -v figure=rows   every row's (but of branches alone) owners' mean over the base's, a dot a seed
#   -v figure=gate   anchored rows: that against what an owner's text costs
#                    with its expert excluded
function text(s) {gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s); return s}
function relative(seed, name, without, column) {
  return value[seed, name, without, column] / value[seed, "base", "", column]
}
# An owner's own text without its expert, over the base's; over all owners.
function excluded(seed, name,   parts, n, k, sum) {
  n = split(substr(left_out[name], 2), parts, " ")
  sum = 0
  for (k = 1; k <= n; ++k) sum += log(relative(seed, name, parts[k], parts[k]))
  return n ? exp(sum / n) : 0
}
function begin_svg(w, h, title) {
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", w, h, w, h
  printf "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", text(title)
  printf "<text x=\"12\" y=\"20\" font-weight=\"bold\">%s</text>\n", text(title)
}
# The line of the base is darker.
function grid(t, light) {return t > 0.999 && t < 1.001 ? "#888" : light}
END {if (figure == "gate") gate(); else all_rows_figure()}

# A branch on others' texts is far off, and would leave no room.
function drawn(name) {return ((name, "") in there) && name !~ /^branch-/}
function all_rows_figure(   r, s, name, shown, y, x, low, high, v, left, w, t, sum, n) {
  low = 9; high = 1; shown = 0
  for (r = 1; r <= rows; ++r) {
    if (!drawn(names[r])) continue
    ++shown
    for (s = 1; s <= seed_count; ++s) if (has(seeds[s], names[r], "")) {
      v = relative(seeds[s], names[r], "", "owners")
      if (v < low) low = v
      if (v > high) high = v
    }
  }
  low -= 0.02; high += 0.02; left = 440; w = 420
  begin_svg(left + w + 40, 60 + shown * 18, "Perplexity on the owners' texts over the base's (lower is better; a dot a seed, a line the mean)")
  for (t = int(low * 10 + 1) / 10; t < high; t += 0.1) {
    x = left + w * (t - low) / (high - low)
    printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"34\" y2=\"%d\" stroke=\"%s\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#555\">%.1f</text>\n", x, x, 40 + shown * 18, grid(t, "#e4e4e4"), x, 54 + shown * 18, t
  }
  y = 46
  for (r = 1; r <= rows; ++r) {
    name = names[r]
    if (!drawn(name)) continue
    printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left - 10, y + 4, text(label[name])
    sum = n = 0
    for (s = 1; s <= seed_count; ++s) if (has(seeds[s], name, "")) {
      v = relative(seeds[s], name, "", "owners")
      sum += v; ++n
      printf "<circle cx=\"%.1f\" cy=\"%d\" r=\"3.2\" fill=\"#2166ac\" fill-opacity=\"0.45\"/>\n", left + w * (v - low) / (high - low), y
    }
    x = left + w * (sum / n - low) / (high - low)
    printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#b2560d\" stroke-width=\"2\"/>\n", x, x, y - 6, y + 6
    y += 18
  }
  print "</svg>"
}

function gate(   r, s, name, part, n, x, y, a, b, kx, ky, lowx, highx, lowy, highy, key, keys, k, t, px, py, color, dash) {
  color["0"] = "#b2560d"; color["0.8"] = "#2166ac"; color["prefix"] = "#1b7837"
  lowx = lowy = 99; highx = highy = 0; keys = 0
  for (r = 1; r <= rows; ++r) {
    name = names[r]
    if (name !~ /^anchored-(pair|switch)-/ || left_out[name] == "") continue
    x = y = n = 0
    for (s = 1; s <= seed_count; ++s) if (has(seeds[s], name, "")) {
      x += relative(seeds[s], name, "", "owners"); y += excluded(seeds[s], name); ++n
    }
    if (n == 0) continue
    key[++keys] = name; kx[name] = x / n; ky[name] = y / n
    if (x / n < lowx) lowx = x / n
    if (x / n > highx) highx = x / n
    if (y / n < lowy) lowy = y / n
    if (y / n > highy) highy = y / n
  }
  if (keys == 0) {begin_svg(600, 60, "No anchored rows yet"); print "</svg>"; return}
  lowx -= 0.01; highx += 0.01; lowy -= 0.02; highy += 0.02
  begin_svg(740, 480, "The gate: what it costs with all experts, what it saves with the own expert excluded")
  for (t = int(lowx * 50 + 1) / 50; t < highx; t += 0.02) {
    px = 70 + 480 * (t - lowx) / (highx - lowx)
    printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"40\" y2=\"420\" stroke=\"#eee\"/><text x=\"%.1f\" y=\"436\" text-anchor=\"middle\" fill=\"#555\">%.2f</text>\n", px, px, px, t
  }
  for (t = int(lowy * 20 + 1) / 20; t < highy; t += 0.05) {
    py = 420 - 380 * (t - lowy) / (highy - lowy)
    printf "<line x1=\"70\" x2=\"550\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/><text x=\"62\" y=\"%.1f\" text-anchor=\"end\" fill=\"#555\">%.2f</text>\n", py, py, grid(t, "#eee"), py + 4, t
  }
  printf "<text x=\"310\" y=\"458\" text-anchor=\"middle\">owners' mean, all experts, over the base's</text>\n"
  printf "<text transform=\"translate(18 230) rotate(-90)\" text-anchor=\"middle\">own text, own expert excluded, over the base's</text>\n"
  for (k = 1; k <= keys; ++k) {
    name = key[k]
    n = split(name, part, "-")
    a = part[3]; b = part[4]
    px = 70 + 480 * (kx[name] - lowx) / (highx - lowx); py = 420 - 380 * (ky[name] - lowy) / (highy - lowy)
    if (k > 1 && line == part[2] part[3]) printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-opacity=\"0.5\"/>\n", ox, oy, px, py, color[a]
    line = part[2] part[3]; ox = px; oy = py
    if (part[2] == "pair") printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", px, py, color[a]
    else printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"%s\"/>\n", px - 4, py - 4, color[a]
    printf "<text x=\"%.1f\" y=\"%.1f\" font-size=\"9\" fill=\"#555\">%s</text>\n", px + 6, py - 4, b
  }
  y = 60
  n = split("0 0.8 prefix", part, " ")
  for (k = 1; k <= n; ++k) {
    a = part[k]
    printf "<line x1=\"570\" x2=\"590\" y1=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"3\"/><text x=\"596\" y=\"%d\">a = %s</text>\n", y - 4, y - 4, color[a], y, a
    y += 20
  }
  printf "<circle cx=\"580\" cy=\"%d\" r=\"4\"/><text x=\"596\" y=\"%d\">pair</text><rect x=\"576\" y=\"%d\" width=\"8\" height=\"8\"/><text x=\"596\" y=\"%d\">switch</text><text x=\"570\" y=\"%d\">numbers: the gate's q</text>\n", y - 4, y, y + 12, y + 20, y + 44
  print "</svg>"
}
