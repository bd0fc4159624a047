# SPDX-License-Identifier: Apache-2.0
# After stats.awk: the tables of docs/reproduction.md. -v orderings=FILE.
function spread(m) {return stat_n > 1 ? sprintf("%.1f ± %.1f", m, stat_deviation) : sprintf("%.1f", m)}
function short(column) {gsub(/_/, "-", column); return column}
END {
  printf "Seeds: %d (", seed_count
  for (s = 1; s <= seed_count; ++s) printf "%s%s", seeds[s], s < seed_count ? ", " : ""
  printf "). Perplexity, mean over the seeds; ± is the deviation between seeds. owners, all: geometric means. active: parameters of a token; tokens: that were trained on, the base's included; MiB: what is kept to serve it.\n\n"
  printf "| row |"; for (i = 1; i <= column_count; ++i) printf " %s |", short(columns[i])
  printf " active M | tokens M | MiB |\n|---|"
  for (i = 1; i <= column_count + 3; ++i) printf "---|"
  printf "\n"
  for (r = 1; r <= rows; ++r) {
    name = names[r]
    if (!((name, "") in there)) continue
    line = "| " label[name]
    some = there[name, ""]
    if (some < seed_count) line = line sprintf(" (%d seed%s)", some, some > 1 ? "s" : "")
    for (i = 1; i <= column_count; ++i) {
      m = mean(name, "", columns[i])
      line = line " | " (i > column_count - 2 ? spread(m) : sprintf("%.1f", m))
    }
    printf "%s | %.2f | %.2f | %.1f |\n", line, cost[name, "active_parameters"] / 1e6, cost[name, "tokens"] / 1e6, cost[name, "bytes"] / 1048576
  }
  exclusion()
  order()
}
# Geometric means over the owners: of what an owner's text costs without its
# expert, over the base; and of the other owners' texts then, over the whole
# composition.
function exclusion(   r, name, k, n, parts, i, own, others, owner, s, v, line) {
  printf "\n### An owner's expert excluded\n\nFor every owner its expert is left out: its own text without it, over the base's perplexity (1 = the base's), owner by owner and as the geometric mean; and the other owners' texts then, over what they are with all experts.\n\n| row |"
  n = 0
  for (r = 1; r <= rows; ++r) if (left_out[names[r]] != "") {n = split(substr(left_out[names[r]], 2), parts, " "); break}
  if (n == 0) {print " |\n|---|"; return}
  for (k = 1; k <= n; ++k) printf " %s |", short(parts[k])
  printf " own text / base | others / whole |\n|---|"
  for (k = 1; k <= n + 2; ++k) printf "---|"
  printf "\n"
  for (r = 1; r <= rows; ++r) {
    name = names[r]
    if (left_out[name] == "") continue
    line = "| " label[name]
    own_sum = own_n = other_sum = other_n = 0
    for (k = 1; k <= n; ++k) {
      owner = parts[k]
      sum = count = 0
      for (s = 1; s <= seed_count; ++s) {
        if (!has(seeds[s], name, owner) || !has(seeds[s], "base", "")) continue
        sum += log(value[seeds[s], name, owner, owner] / value[seeds[s], "base", "", owner]); ++count
        for (i = 1; i <= n; ++i) if (i != k) {
          other_sum += log(value[seeds[s], name, owner, parts[i]] / value[seeds[s], name, "", parts[i]]); ++other_n
        }
      }
      if (count) {line = line sprintf(" | %.2f", exp(sum / count)); own_sum += sum; own_n += count} else line = line " | -"
    }
    if (own_n == 0) continue
    printf "%s | %.3f | %.3f |\n", line, exp(own_sum / own_n), exp(other_sum / other_n)
  }
}
function order(   line, part, n, s, a, b, i, ratio, held, count, text, first, second, log_sum) {
  printf "\n### Orderings\n\nRatio of perplexities, first over second, seed by seed: below 1 the first is better.\n\n| claim | column | ratio, by seed | mean | holds |\n|---|---|---|---|---|\n"
  while ((getline line < orderings) > 0) {
    if (line ~ /^#/ || line !~ /\|/) continue
    n = split(line, part, / *\| */)
    held = count = log_sum = 0
    text = ""
    for (s = 1; s <= seed_count; ++s) {
      first = pick(seeds[s], part[2], part[4], 1)
      second = pick(seeds[s], part[3], part[4], 1)
      if (first == 0 || second == 0) continue
      ratio = first / second
      text = text sprintf("%s%.3f", count ? ", " : "", ratio)
      log_sum += log(ratio); ++count
      if (ratio < 1) ++held
    }
    if (count == 0) continue
    printf "| %s | %s | %s | %.3f | %s |\n", part[1], part[4], text, exp(log_sum / count), held == count ? "yes" : held == 0 ? "no" : sprintf("in %d of %d", held, count)
  }
}
# The perplexity of a row; of "best:" and "each:" the lowest of those named so
# (to be below each is to be below the lowest).
function pick(seed, what, column, unused,   r, least, prefix) {
  if (what !~ /:/) return has(seed, what, "") ? value[seed, what, "", column] : 0
  prefix = what; sub(/^[a-z]*:/, "", prefix)
  least = 0
  for (r = 1; r <= rows; ++r) {
    if (index(names[r], prefix) != 1 || !has(seed, names[r], "")) continue
    if (least == 0 || value[seed, names[r], "", column] < least) least = value[seed, names[r], "", column]
  }
  return least
}
