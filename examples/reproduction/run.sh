#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The papers' methods beside one another, everything trained from text: a
# federation a seed, its owners' experts of every kind, every composition and
# ablation of them, perplexities, and docs/reproduction.md with its figure.
#
#   examples/reproduction/run.sh [--scale tiny|small] [--seeds N]
#                                [--data DIR] [--out DIR] [--docs DIR]
#
#   --scale S    tiny: up to 40 minutes a seed on 2 cores (the default);
#                small: hours
#   --seeds N    seeds 1 to N (default: 1); or a list, as in 2,5
#   --data DIR   text: DIR/text/DOMAIN/{train,test}.jsonl with the domains law,
#                code, maths, shakespeare, cli_docs (owners), geography,
#                scripture, python_specs (public); or DIR/public/*.jsonl and
#                DIR/OWNER/*.jsonl, a line {"text": "…"} a document.
#                Default: what this machine has, as in the quickstart
#   --out DIR    where everything goes (default: build/reproduction)
#   --docs DIR   where results go (default: OUT/docs; the repository's docs/
#                are written with --docs docs)
#
# Interrupt it whenever you like: it goes on where it stopped. Every step that
# is done has a file in OUT/seed-N/done; remove one to have it done again.
set -u
set -o pipefail
# shellcheck source=.ci/setup.sh disable=SC1091
. "$(dirname "$0")/../../.ci/setup.sh"
here=$MOTET_SOURCE/examples/reproduction
# shellcheck disable=SC2034  # common.sh reads it
example=reproduction
# shellcheck source=examples/common.sh disable=SC1091
. "$MOTET_SOURCE/examples/common.sh"
# shellcheck source=examples/reproduction/scales.sh disable=SC1091
. "$here/scales.sh"

scale=tiny seeds=1 data='' root='' docs=''
while [ $# -gt 0 ]; do
  case $1 in
    --scale|--seeds|--data|--out|--docs)
      [ $# -ge 2 ] || motet_die "[reproduction] got $1 alone, want a value after it" ;;
  esac
  case $1 in
    --scale) scale=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    --out) root=$2; shift 2 ;;
    --docs) docs=$2; shift 2 ;;
    -h|--help) sed -n '3,24s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) motet_die "[reproduction] got $1, want one of the options that --help lists" ;;
  esac
done
case $scale in
  tiny|small) "scale_$scale" ;;
  *) motet_die "[reproduction] got --scale $scale, want tiny or small" ;;
esac
if [[ $seeds =~ ^[1-9][0-9]{0,2}$ ]]; then
  seeds=$(seq "$seeds")
elif [[ $seeds =~ ^[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*,?$ ]]; then
  seeds=${seeds//,/ }
else
  motet_die "[reproduction] got --seeds $seeds, want a number, or a list as 2,5 (one seed: 2,)"
fi
if [ -n "$data" ]; then
  data=$(cd "$data" 2>/dev/null && pwd) || motet_die "[reproduction] got a --data folder that is not there"
fi
root=${root:-$MOTET_BUILD/reproduction}
if [ -e "$root" ] && [ ! -e "$root/.reproduction" ] && [ -n "$(ls -A "$root")" ]; then
  motet_die "[reproduction] got --out $root, which this script did not make, want a new folder"
fi
mkdir -p "$root/logs" || exit 1
# What a resumed run must have in common with the first one.
settings="scale $scale, data ${data:-of this machine}"
if [ -s "$root/.reproduction" ] && [ "$(cat "$root/.reproduction")" != "$settings" ]; then
  motet_die "[reproduction] got $settings, but $root was made with $(cat "$root/.reproduction"), want the same or another --out"
fi
printf '%s\n' "$settings" >"$root/.reproduction"
root=$(cd "$root" && pwd)
out=$root
docs=${docs:-$root/docs}
mkdir -p "$docs/reproduction" || exit 1
docs=$(cd "$docs" && pwd)

# ---------------------------------------------------------------------- build
if [ -z "${MOTET_PROGRAMS:-}" ]; then  # or a folder with the three programs
  motet_packages
  [ -x "$MOTET_BUILD/motet" ] || printf 'Building Motet (some minutes, once; log: %s)\n' "$MOTET_BUILD/build.log"
  motet_build motet motet-node motet-registry
fi
export PATH=${MOTET_PROGRAMS:-$MOTET_BUILD}:$PATH
export OMP_WAIT_POLICY=passive  # five nodes share few cores

# shellcheck source=examples/reproduction/text.sh disable=SC1091
. "$here/text.sh"
# shellcheck source=examples/reproduction/train.sh disable=SC1091
. "$here/train.sh"
# shellcheck source=examples/reproduction/measure.sh disable=SC1091
. "$here/measure.sh"

# ---------------------------------------------------------------------- steps
# A seed's steps: weight (about how long), name, function and its arguments.
seed_steps() {
  printf '%s\n' \
    '1 join join_all' \
    '9 base base_train' \
    '7 ffn train_plan ffn' \
    '6 branch train_plan branch' \
    '6 pooled train_pooled' \
    '6 ffn-alone train_plan ffn-alone' \
    '7 ffn-own train_plan ffn-own' \
    '1 probe probe_difficulty' \
    '7 width train_width' \
    '5 steps train_steps' \
    '7 ffn-no-bias train_plan ffn-no-bias'
  measure_steps
}
# Runs what is not done yet of a seed, in order, and says how far it is.
run_steps() {
  local number=0 count weight name what left spent=0 finished=0 begin
  mapfile -t steps < <(seed_steps)
  count=${#steps[@]}
  mkdir -p "$out/done"
  for line in "${steps[@]}"; do
    read -r weight name what <<<"$line"
    number=$((number + 1))
    [ -e "$out/done/$name" ] && continue
    left=$(printf '%s\n' "${steps[@]}" | while read -r w n _; do [ -e "$out/done/$n" ] || echo "$w"; done |
      awk -v spent="$spent" -v finished="$finished" '{w += $1} END {
        if (finished == 0) print "unknown"; else printf "%.0f min", spent / finished * w / 60}')
    step "Seed $seed, step $number of $count: $name (seed's time so far $((spent / 60)) min, left $left)"
    begin=$SECONDS
    # shellcheck disable=SC2086  # function and arguments
    $what
    printf '%s s\n' "$((SECONDS - begin))" >"$out/done/$name.tmp"
    mv "$out/done/$name.tmp" "$out/done/$name"
    spent=$((spent + SECONDS - begin)) finished=$((finished + weight))
  done
}
text_make
for seed in $seeds; do
  out=$root/seed-$seed
  mkdir -p "$out/logs"
  export MOTET_FEDERATION=$out/federation
  daemons=  # registry, daemon and nodes run
  run_steps
  cleanup_daemons
  collect_seed
done
out=$root
collect_all
