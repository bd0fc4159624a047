# SPDX-License-Identifier: Apache-2.0
# Rows "title TAB query TAB text" into corpus.jsonl, queries.jsonl and
# qrels/{train,test}.tsv of the folder `dir`.
function json(text) {
  gsub(/\\/, "/", text)  # awks differ in how they write a backslash
  gsub(/"/, "\\\"", text)
  gsub(/[\001-\037\177]/, " ", text)
  gsub(/[\200-\377]/, "?", text)  # bytes: they could be cut in a character
  return "\"" text "\""
}
BEGIN {
  print "query-id\tcorpus-id\tscore" >(dir "/qrels/train.tsv")
  print "query-id\tcorpus-id\tscore" >(dir "/qrels/test.tsv")
}
NF >= 3 && length($2) >= 12 && length($3) >= 40 && !($2 in queries) && !($3 in texts) {
  queries[$2] = texts[$3] = 1
  id = ++n
  printf "{\"_id\":\"d%d\",\"title\":%s,\"text\":%s}\n", id, json($1), json(substr($3, 1, 2000)) >(dir "/corpus.jsonl")
  printf "{\"_id\":\"q%d\",\"text\":%s}\n", id, json(substr($2, 1, 300)) >(dir "/queries.jsonl")
  printf "q%d\td%d\t1\n", id, id >(dir "/qrels/" (id % 4 ? "train" : "test") ".tsv")
}
END {
  if (n < 80) {
    printf "gather: got %d documents for %s, want at least 80; use --data DIR\n", n, dir >"/dev/stderr"
    exit 1
  }
}
