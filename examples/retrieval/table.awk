# SPDX-License-Identifier: Apache-2.0
# Seeds' CSVs of `motet eval routers` into two Markdown tables: means over the
# seeds, with the deviation of the mean column; then with each set's own expert
# withdrawn.
function name_of(line) {
  match(line, /^"[^"]*"/)
  rest = substr(line, RLENGTH + 2)
  return substr(line, 2, RLENGTH - 2)
}
FNR == 1 {++seeds; next}
{
  row = name_of($0)
  split(rest, f, ",")
  if (!(row in known)) {known[row] = ++rows; names[rows] = row}
  if (!(f[2] in seen)) {seen[f[2]] = ++columns; sets[columns] = f[2]}
  for (v = 1; v <= 2; ++v) {
    if (f[2 + v] == "") continue
    ++n[v, row, f[2]]
    sum[v, row, f[2]] += f[2 + v]
    squares[v, row, f[2]] += f[2 + v] * f[2 + v]
  }
}
# A mean of fewer sets than the table has would not compare.
function whole(v, row,   c) {
  for (c = 1; c <= columns; ++c) if (!n[v, row, sets[c]]) return 0
  return 1
}
function cell(v, row, set,   k, m, d) {
  k = n[v, row, set]
  if (!k || (set == "(mean)" && !whole(v, row))) return "–"
  if (k != seeds) {print "row " row ", set " set ": " k " of " seeds " seeds" >"/dev/stderr"; bad = 1; exit 1}
  m = sum[v, row, set] / k
  if (set != "(mean)") return sprintf("%.4f", m)
  d = k > 1 ? (squares[v, row, set] - k * m * m) / (k - 1) : 0
  return sprintf("%.4f ± %.4f", m, d > 0 ? sqrt(d) : 0)
}
function write(v, title,   r, c, line) {
  line = "| " title " |"
  for (c = 1; c <= columns; ++c) line = line " " (sets[c] == "(mean)" ? "mean" : sets[c]) " |"
  print line
  line = "|---|"
  for (c = 1; c <= columns; ++c) line = line "---:|"
  print line
  for (r = 1; r <= rows; ++r) {
    line = "| " names[r] " |"
    for (c = 1; c <= columns; ++c) line = line " " cell(v, names[r], sets[c]) " |"
    print line
  }
}
END {
  if (bad) exit 1
  write(1, "nDCG@10")
  print ""
  write(2, "own expert withdrawn")
}
