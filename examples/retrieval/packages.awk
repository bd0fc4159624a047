# SPDX-License-Identifier: Apache-2.0
# dpkg's status file: a row for each package with a long description. The
# name would give the answer away, so it is not in the text.
/^Description: / {
  query = substr($0, 14); text = ""; reading = 1
  next
}
reading && /^ / {
  line = substr($0, 2)
  if (line != ".") text = text " " line
  next
}
reading {
  gsub(/\t/, " ", query); gsub(/\t/, " ", text)
  print "\t" query "\t" substr(text, 2)
  reading = 0
}
END {if (reading) print "\t" query "\t" substr(text, 2)}
