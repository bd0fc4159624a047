# SPDX-License-Identifier: Apache-2.0
# Perl's documentation: "=head1 NAME", then "Module - what it is for", and the
# first paragraphs of "=head1 DESCRIPTION".
function finish() {
  gsub(/[A-Z]<+ *| *>+/, "", query); gsub(/[A-Z]<+|>+/, "", text)
  gsub(/\t/, " ", query); gsub(/\t/, " ", text)
  if (query != "" && text != "") print "\t" query "\t" text
  section = query = text = ""
}
FNR == 1 {finish()}
/^=head1 +NAME/ {section = "name"; next}
/^=head1 +(DESCRIPTION|SYNOPSIS)/ {section = $2 == "SYNOPSIS" ? "" : "text"; next}
/^=(head|cut|over|item|back|begin|for)/ {section = ""; next}
section == "name" && query == "" && match($0, / +--? +/) {
  query = substr($0, RSTART + RLENGTH)
  next
}
section == "text" && !/^=/ && length(text) < 1500 && !/^[ \t]/ {text = text (text == "" ? "" : " ") $0}
END {finish()}
