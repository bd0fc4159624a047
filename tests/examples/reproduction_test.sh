#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# examples/reproduction without training: its list of rows holds together, and
# tables and figures of two seeds with known numbers say what they must.
set -eu
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
problems=0
wrong() { printf 'wrong: %s\n' "$*" >&2; problems=$((problems + 1)); }
has() { grep -qF -- "$2" "$1" || wrong "$1 has no \"$2\""; }

# What measure.sh takes from run.sh.
# shellcheck disable=SC2034
here=$source/examples/reproduction MOTET_SOURCE=$source root=$work docs=$work/docs
# shellcheck disable=SC2034
owners=(a b)
step() { :; }
fail() { wrong "$*"; exit 1; }
# shellcheck source=examples/reproduction/measure.sh disable=SC1091
. "$here/measure.sh"

# Every row has five fields, a composition's name that is its own, and one step.
all_rows | awk -F' *\\| *' 'NF != 5 || $1 !~ /^[a-z0-9.-]+$/ || $5 == "" || named[$1]++' >"$work/rows"
[ -s "$work/rows" ] && wrong "rows: $(cat "$work/rows")"
[ "$(measure_steps | wc -l)" = "$(all_rows | grep -vc '| told |')" ] || wrong "not a step a measured row"
# Every ordering names rows that there are.
names=$(all_rows | sed 's/ *|.*//')
grep -v '^#' "$here/orderings.txt" | awk -F' *\\| *' '{print $2; print $3}' | while read -r name; do
  case $name in
    *:*) grep -q "^${name#*:}" <<<"$names" || echo "$name" ;;
    *) grep -qx -- "$name" <<<"$names" || echo "$name" ;;
  esac
done >"$work/unknown"
[ -s "$work/unknown" ] && wrong "orderings of unknown rows: $(cat "$work/unknown")"

mkdir -p "$docs/reproduction"
printf 'before\n<!-- table -->\nold\n<!-- end -->\nafter\n' >"$docs/reproduction.md"
for seed in 1 2; do
  {
    echo row,without,a,b,owners,all,active_parameters,parameters,tokens,bytes
    echo "base,,100,100,100,100,1000000,1000000,2000000,1048576"
    echo "soup,,$((80 + seed * 10)),80,85,85,1000000,1000000,4000000,1048576"
    echo "flexolmo,,80,80,$((78 + seed * 2)),80,1500000,2000000,4000000,2097152"
    echo "flexolmo,a,$((100 + seed * 10)),80,90,90,1500000,2000000,4000000,2097152"
    echo "flexolmo,b,80,100,90,90,1500000,2000000,4000000,2097152"
    echo "btx,,80,80,$((83 + seed)),80,1500000,2000000,4000000,2097152"
  } >"$docs/reproduction/seed-$seed.csv"
done
collect_all
page=$docs/reproduction.md
has "$page" before
has "$page" after
grep -q '^old$' "$page" && wrong "the old table is still there"
has "$page" "Seeds: 2 (1, 2)"
# 90 and 100 are 95; 80 and 82 deviate by 1.4.
has "$page" "| soup of the branches | 95.0 | 80.0 | 85.0 ± 0.0 | 85.0 ± 0.0 | 1.00 | 4.00 | 1.0 |"
has "$page" "| FlexOlmo, top-2 over trained rows | 80.0 | 80.0 | 81.0 ± 1.4 |"
# a: sqrt(1.1 * 1.2); both owners: its square root with b's 1.
has "$page" "| FlexOlmo, top-2 over trained rows | 1.15 | 1.00 | 1.072 | 1.000 |"
has "$page" "| FlexOlmo > soup | owners | 0.941, 0.965 | 0.953 | yes |"
has "$page" "| BTX > soup | owners | 0.988, 1.000 | 0.994 | in 1 of 2 |"
grep -q 'anchored (pair' "$page" && wrong "an ordering of rows that were not measured"
has "$docs/reproduction/rows.svg" "soup of the branches"
has "$docs/reproduction/gate.svg" "No anchored rows yet"
[ "$problems" = 0 ] && echo "all right"
[ "$problems" = 0 ]
