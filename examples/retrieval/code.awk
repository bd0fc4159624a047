# SPDX-License-Identifier: Apache-2.0
# Doxygen comments of the C++ library: "@brief" finds the rest of the comment
# and the declaration below it.
function finish() {
  gsub(/@[a-z]+ |<\/?[a-z]+>/, "", query); gsub(/@[a-z]+ |<\/?[a-z]+>/, "", text)
  gsub(/[ \t]+/, " ", query); gsub(/[ \t]+/, " ", text)
  sub(/^ /, "", query); sub(/\.? *$/, "", query)
  if (query != "" && declared) print "\t" query "\t" text
  state = query = text = ""; declared = 0
}
FNR == 1 {finish()}
/^ *\/\*\*/ {finish(); state = "comment"}
state == "comment" || state == "brief" {
  line = $0
  sub(/^ *\/?\*+\/?/, "", line)
  if (match(line, /@brief +/)) {
    query = substr(line, RSTART + RLENGTH); state = "brief"
  } else if (state == "brief" && line ~ /^ *[A-Za-z]/ && line !~ /@/) {
    query = query " " line
  } else {
    if (state == "brief") state = "comment"
    text = text " " line
  }
  if ($0 ~ /\*\//) {
    state = query == "" ? "" : "declaration"
    sub(/\*\/.*$/, "", query); sub(/\*\/.*$/, "", text)
    left = 5
  }
  next
}
state == "declaration" {
  if ($0 ~ /^ *$/ || left-- == 0) {finish(); next}
  declared = 1
  text = text " " $0
  if ($0 ~ /[;{]/) finish()
}
END {finish()}
