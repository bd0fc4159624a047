#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Scripts that README and docs call by their path are there and can be called.
set -u
cd "$(dirname "$0")/../.." || exit 1
count=0 bad=0
while read -r script; do
  count=$((count + 1))
  [ -f "$script" ] && [ -x "$script" ] && continue
  echo "[commands] got $script in README or docs, want a file that can be executed" >&2
  bad=1
done < <(grep -ohE '^ {4}(examples|tests|\.ci)/[A-Za-z0-9_./-]+' README.md docs/*.md docs/*/*.md | sort -u)
[ "$count" -ge 4 ] || { echo "[commands] got $count scripts, want those of README" >&2; bad=1; }
exit "$bad"
