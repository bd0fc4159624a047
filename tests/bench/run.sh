#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the benchmarks and prints a table, or JSON:
#   [{"name","ours","peer","peer_name","ratio","unit","cpu"}]
# Each compares us with a peer side by side in one run; look at the ratio.
#
#   tests/bench/run.sh [NAME...] [-o text|json]
#
# BUILD names the build folder (default: build).
set -euo pipefail
cd "$(dirname "$0")/../.."

format=text
names=()
while (($#)); do
  case $1 in
    -o) format=${2:-}; shift ;;
    -h|--help) sed -n '3,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) names+=("$1") ;;
  esac
  shift
done
case $format in
  text|json) ;;
  *) echo "[bench] got -o '$format', want text or json" >&2; exit 2 ;;
esac

build=${BUILD:-build}
{
  [ -f "$build/build.ninja" ] || cmake -S . -B "$build" -G Ninja
  ninja -C "$build" bench
} >&2

# Every benchmark program prints one line a benchmark.
lines=$("$build/tests/train_bench" -o "$format" "${names[@]}")
if [ "$format" = json ]; then
  echo "[${lines//$'\n'/,}]"
else
  printf '%-14s %10s %10s %6s  %-9s %s\n' benchmark ours peer ratio unit 'peer; processor'
  echo "$lines"
fi
