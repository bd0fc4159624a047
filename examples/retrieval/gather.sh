#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Small retrieval sets in BEIR layout of what every Debian machine with the
# build's packages has, as DIR/{packages,manual,code}:   gather.sh DIR
#
#   packages  a package's one line finds its description
#   manual    what a Perl module says of itself in a line finds its text
#   code      the brief of a C++ library function finds its declaration
set -eu
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT

# Rows "title TAB query TAB text" on standard input; every fourth query is held
# out, the first document with a text keeps it, and long ones are cut.
set_of() {
  mkdir -p "$dir/$1/qrels"
  LC_ALL=C awk -F '\t' -v dir="$dir/$1" -f "$here/beir.awk"
}

awk -f "$here/packages.awk" /var/lib/dpkg/status | set_of packages

find -L /usr/share/perl /usr/share/perl5 /usr/lib/*/perl /usr/lib/*/perl-base -type f \
  \( -name '*.pm' -o -name '*.pod' \) 2>/dev/null | sort >"$rows"
xargs -r -d '\n' awk -f "$here/manual.awk" <"$rows" | set_of manual

find -L /usr/include/c++ -type f -size -400k 2>/dev/null | sort >"$rows"
xargs -r -d '\n' awk -f "$here/code.awk" <"$rows" | set_of code
