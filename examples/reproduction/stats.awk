# SPDX-License-Identifier: Apache-2.0
# Reads first "name|label" lines (stdin, -), then seeds' CSV files: fills
#   names[1..rows], label[name]; columns[1..n] (domains, owners, all) ;
#   value[seed, name, without, column], cost[name, what]; seeds[1..S].
BEGIN {FS = ","}
FILENAME == "-" {
  i = index($0, "|")
  name = substr($0, 1, i - 1)
  names[++rows] = name
  label[name] = substr($0, i + 1)
  next
}
FNR == 1 {
  seed = FILENAME
  sub(/.*seed-/, "", seed); sub(/\.csv$/, "", seed)
  seeds[++seed_count] = seed
  column_count = NF - 6
  for (i = 3; i <= NF; ++i) head[i] = $i
  for (i = 1; i <= column_count; ++i) columns[i] = $(i + 2)
  next
}
{
  there[$1, $2] = there[$1, $2] + 1
  for (i = 3; i <= NF - 4; ++i) value[seed, $1, $2, head[i]] = $i
  if ($2 == "") for (i = NF - 3; i <= NF; ++i) if ($i > 0) cost[$1, head[i]] = $i
  if ($2 != "" && !(($1, $2) in known)) {known[$1, $2] = 1; left_out[$1] = left_out[$1] " " $2}
}
function has(seed, name, without) {return ((seed, name, without, "all") in value)}
# Mean over the seeds that have it; n, deviation and extremes are left in
# stat_n, stat_deviation, stat_least, stat_most.
function mean(name, without, column,   s, n, v, sum, squares) {
  n = sum = squares = 0
  for (s = 1; s <= seed_count; ++s) {
    if (!has(seeds[s], name, without)) continue
    v = value[seeds[s], name, without, column]
    if (n == 0 || v < stat_least) stat_least = v
    if (n == 0 || v > stat_most) stat_most = v
    sum += v; squares += v * v; ++n
  }
  stat_n = n
  if (n == 0) return 0
  stat_deviation = n > 1 ? sqrt(positive(squares - sum * sum / n) / (n - 1)) : 0
  return sum / n
}
function positive(x) {return x > 0 ? x : 0}
