# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/run.sh and examples/quickstart/run.sh: installs what is
# missing, configures, builds. Needs bash alone.

# Paths of the checkout and its build folder.
MOTET_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MOTET_BUILD=${MOTET_BUILD:-$MOTET_SOURCE/build}

motet_die() {
  printf 'motet: %s\n' "$*" >&2
  exit 1
}

# Installs the Debian packages of .ci/packages.txt that are missing.
motet_packages() {
  command -v dpkg-query >/dev/null ||
    motet_die "[setup] got no dpkg, want Debian 12; install the equivalents of .ci/packages.txt by hand"
  local wanted missing
  wanted=$(grep -v '^#' "$MOTET_SOURCE/.ci/packages.txt")
  missing=$(for p in $wanted; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
  done | xargs)
  [ -z "$missing" ] && return 0
  if [ "$(id -u)" != 0 ]; then
    printf 'Motet needs Debian packages that are missing. Run this, then try again:\n\n  sudo apt-get install -y --no-install-recommends %s\n\n' "$missing" >&2
    exit 1
  fi
  printf 'Installing Debian packages: %s\n' "$missing" >&2
  local log
  log=$(mktemp)
  { DEBIAN_FRONTEND=noninteractive apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; motet_die "[setup] apt-get failed; its log is $log"; }
  rm -f "$log"
}

# motet_build TARGET...: configures once and builds with ninja and ccache.
motet_build() {
  local log=$MOTET_BUILD/configure.log
  mkdir -p "$MOTET_BUILD"
  if [ ! -f "$MOTET_BUILD/build.ninja" ]; then
    cmake -S "$MOTET_SOURCE" -B "$MOTET_BUILD" -G Ninja >"$log" 2>&1 ||
      { tail -n 30 "$log" >&2; motet_die "[setup] cmake failed; its log is $log"; }
  fi
  if [ -t 2 ]; then
    ninja -C "$MOTET_BUILD" "$@" >&2
  else
    # Away from a terminal: quiet, unless it fails.
    NINJA_STATUS='[%f/%t] ' ninja -C "$MOTET_BUILD" "$@" >"$MOTET_BUILD/build.log" 2>&1 ||
      { grep -A15 -m3 -E 'FAILED|error:' "$MOTET_BUILD/build.log" >&2
        motet_die "[setup] the build failed; its log is $MOTET_BUILD/build.log"; }
  fi
}
