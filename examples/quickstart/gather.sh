#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Text that every Debian machine with the build's packages has, as
# DIR/{public,code,legal,manual}/*.jsonl:   gather.sh DIR
set -eu
dir=$1
mkdir -p "$dir/public" "$dir/code" "$dir/legal" "$dir/manual"
list=$(mktemp)
trap 'rm -f "$list"' EXIT

# Of each kind of text, one file in 8 is public (a base knows a little of
# everything), the others are the owner's.
# owner NAME DOCUMENT_BYTES [OPTION…], paths on standard input
owner() {
  local name=$1 bytes=$2
  shift 2
  sort >"$list"
  awk 'NR % 8' "$list" | motet corpus pack "$@" --out "$dir/$name/text.jsonl" \
    --max-bytes 2400000 --max-document-bytes "$bytes"
  awk 'NR % 8 == 0' "$list" | motet corpus pack "$@" --out "$dir/public/some-$name.jsonl" \
    --max-bytes 320000 --max-document-bytes "$bytes"
}
find -L /usr/include/c++ -type f -size -200k 2>/dev/null | owner code 24000
find -L /usr/share/doc /usr/share/common-licenses -type f \
  \( -name copyright -o -path '*/common-licenses/*' \) 2>/dev/null | owner legal 12000
find -L /usr/share/perl /usr/share/perl5 /usr/lib/*/perl /usr/lib/*/perl-base -type f \
  \( -name '*.pm' -o -name '*.pod' -o -name '*.pl' \) 2>/dev/null | owner manual 24000 --pod

# Public text of other kinds: build scripts, C headers, protocol definitions.
find -L /usr/share/cmake* -type f -name '*.cmake' 2>/dev/null |
  motet corpus pack --out "$dir/public/build.jsonl" --max-bytes 1200000 --max-document-bytes 12000
find -L /usr/include/linux /usr/include/openssl /usr/include/google /usr/include/grpc -type f \
  \( -name '*.h' -o -name '*.proto' \) 2>/dev/null |
  motet corpus pack --out "$dir/public/c.jsonl" --max-bytes 1200000 --max-document-bytes 12000
