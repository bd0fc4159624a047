#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs every test. Extra arguments go to ctest:
#   tests/run.sh                 everything
#   tests/run.sh -L golden       one label (a box or a kind of test)
#   tests/run.sh -R exclusion    by name
set -u
. "$(dirname "$0")/../.ci/setup.sh"
case ${1:-} in
  -h|--help) sed -n '3,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
motet_packages
echo "Building (log: $MOTET_BUILD/build.log)" >&2
motet_build all
log=$MOTET_BUILD/tests.log
# Programs under test run OpenMP; waiting threads must not burn a core that
# another test needs.
OMP_WAIT_POLICY=passive ctest --test-dir "$MOTET_BUILD" -j "$(nproc)" \
  --output-on-failure --timeout 900 --no-tests=error "$@" 2>&1 | tee "$log" |
  grep -vE '^ *(Start|[0-9]+/[0-9]+ Test +#[0-9]+: .* Passed)|^ *Test +#'
code=${PIPESTATUS[0]}

# Counts by box: the folder below tests/ that a test comes from.
awk '
  / Test +#[0-9]+: / {
    name = $0; sub(/.*Test +#[0-9]+: /, "", name)
    box = name; sub(/ .*/, "", box); sub(/\/[A-Z].*/, "", box)
    if (name ~ /\*\*\*Skipped|\*\*\*Not Run|Disabled/) skipped[box]++
    else if (name ~ /Passed/) passed[box]++
    else failed[box]++
    boxes[box] = 1
  }
  END {
    n = 0
    for (b in boxes) names[++n] = b
    for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++)
      if (names[j] < names[i]) { t = names[i]; names[i] = names[j]; names[j] = t }
    printf "\n%-20s %7s %7s %8s\n", "box", "passed", "failed", "skipped"
    for (i = 1; i <= n; i++) {
      b = names[i]
      printf "%-20s %7d %7d %8d\n", b, passed[b], failed[b], skipped[b]
      p += passed[b]; f += failed[b]; s += skipped[b]
    }
    printf "\n%d passed, %d failed, %d skipped\n", p, f, s
  }' "$log"
exit "$code"
