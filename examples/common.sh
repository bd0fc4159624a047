# SPDX-License-Identifier: Apache-2.0
# Sourced by the run.sh of the examples, after .ci/setup.sh: talk, waiting,
# ending, and a federation with its registry, daemon and owners on this
# machine. The script sets `example` (its name) and `out` (its folder, with
# logs/) first, and after `federation_make` `federation` is the name of the
# federation in $MOTET_FEDERATION.
# shellcheck shell=bash disable=SC2154  # `example` and `out` are the script's

pids=()      # every daemon that the script started
foreground=  # the command that it waits for
# end PID...: SIGTERM, and after 10 s SIGKILL.
end() {
  local p
  for p in "$@"; do kill "$p" 2>/dev/null; done
  for p in "$@"; do
    for _ in $(seq 100); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$p" 2>/dev/null
    wait "$p" 2>/dev/null
  done
}
cleanup() {
  trap - EXIT INT TERM
  [ -n "$foreground" ] && pids+=("$foreground")
  [ ${#pids[@]} -gt 0 ] && end "${pids[@]}"
  pids=()
}
trap cleanup EXIT
trap 'printf "\nInterrupted; stopping everything.\n" >&2; exit 130' INT TERM

bold='' dim='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' dim=$'\033[2m' plain=$'\033[0m'; fi
step() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; shift; for l in "$@"; do printf '%s\n' "$l"; done; }
show() { printf '%s  $ %s%s\n' "$dim" "$*" "$plain"; }
fail() {
  printf '\n%s: %s\n' "$example" "$*" >&2
  [ -d "$out/logs" ] && printf 'Logs are in %s/logs; the federation is in %s.\n' "$out" "$out" >&2
  exit 1
}
# Runs a command in the background, with the script waiting: so an interrupt
# is answered at once, whatever runs.
wait_for() {
  "$@" &
  foreground=$!
  wait "$foreground"
  local status=$?
  foreground=
  return $status
}
# Shows a command and runs it.
run() {
  show "$@"
  wait_for "$@" || fail "the command above failed"
}
quiet() {  # quiet LOG COMMAND...: the same, into a log
  local log=$1
  shift
  show "$@"
  wait_for "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "the command above failed; its log is $log"; }
}
table() {  # table FILE COMMAND...: its output, kept in a file too
  local file=$1
  shift
  show "$@"
  wait_for "$@" >"$file" || fail "the command above failed"
  cat "$file"
}
await() {  # await FILE PID NAME: until the file is there; its process must live
  while [ ! -s "$1" ]; do
    kill -0 "$2" 2>/dev/null || { cat "$out/logs/$3.log" >&2; fail "$3 ended before it was ready"; }
    sleep 0.05
  done
}
free_port() {
  local p
  while :; do
    p=$((20000 + RANDOM % 30000))
    (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
  done
}
peak_mib() { awk '/VmHWM/ {printf "%.0f", $2 / 1024}' "/proc/$1/status" 2>/dev/null; }
# Seconds since a time of `date +%s%N`.
seconds() { awk -v a="$1" -v b="$(date +%s%N)" 'BEGIN {printf "%.1f", (b - a) / 1e9}'; }

# ----------------------------------------------------------------- federation
# federation_make NAME: authority, configuration of registry and coordinator
# at free ports of loopback.
federation_make() {
  federation=$1
  registry=127.0.0.1:$(free_port)
  coordinator=127.0.0.1:$(free_port)
  run motet init "$federation" --registry-address "$registry" --coordinator-address "$coordinator"
}
# Starts both; sets registry_pid and daemon_pid.
federation_start() {
  rm -f "$out/logs/registry.port" "$out/logs/daemon.port"
  show motet-registry run --config "$MOTET_FEDERATION/registry/registry.toml" '&'
  motet-registry run --config "$MOTET_FEDERATION/registry/registry.toml" \
    --port-file "$out/logs/registry.port" >>"$out/logs/registry.log" 2>&1 &
  registry_pid=$!; pids+=("$registry_pid")
  show motet daemon run '&'
  motet daemon run --port-file "$out/logs/daemon.port" >>"$out/logs/daemon.log" 2>&1 &
  daemon_pid=$!; pids+=("$daemon_pid")
  await "$out/logs/registry.port" "$registry_pid" registry
  await "$out/logs/daemon.port" "$daemon_pid" daemon
}
# owner_join OWNER: the node nodes/OWNER of OWNER.example makes its key and
# request, the administrator approves it by the key's fingerprint, and the
# node takes its certificate.
owner_join() {
  local owner=$1 node=$out/nodes/$1 fingerprint
  show motet-node init --federation "$federation" --owner "$owner.example" --node node1 --dir "$node"
  fingerprint=$(motet-node init --federation "$federation" --owner "$owner.example" --node node1 \
    --dir "$node" --coordinator "$coordinator" --registry "$registry" |
    sed -n 's/.*\(SHA256:[0-9a-f]*\).*/\1/p' | head -n 1)
  [ -n "$fingerprint" ] || fail "motet-node init gave no fingerprint"
  show motet member approve "$node/request.pem" --fingerprint "${fingerprint:0:20}…"
  motet member approve "$node/request.pem" --fingerprint "$fingerprint" >"$out/logs/member-$owner.log" || fail "approval of $owner"
  show motet-node join --dir "$node" --certificate "…/$owner.example/node1.pem" --authority …/ca.pem
  motet-node join --dir "$node" --certificate "$MOTET_FEDERATION/members/$owner.example/node1.pem" \
    --authority "$MOTET_FEDERATION/ca/ca.pem" >>"$out/logs/member-$owner.log" || fail "$owner could not join"
}
# owner_start OWNER THREADS: its daemon; sets node_pid.
owner_start() {
  show motet-node run --dir "$out/nodes/$1" '&'
  motet-node run --dir "$out/nodes/$1" --threads "$2" >>"$out/logs/node-$1.log" 2>&1 &
  node_pid=$!; pids+=("$node_pid")
}

# -------------------------------------------------------------------- serving
# serve_start COMPOSITION: sets http and serve_pid.
serve_start() {
  show motet serve "$1" --address 127.0.0.1:0 '&'
  motet serve "$1" --address 127.0.0.1:0 --port-file "$out/logs/serve.port" >"$out/logs/serve.log" 2>&1 &
  serve_pid=$!; pids+=("$serve_pid")
  await "$out/logs/serve.port" "$serve_pid" serve
  http=$(cat "$out/logs/serve.port")
}
# ask NAME BODY: a completion; the answer is in logs/answer-NAME.json.
ask() {
  show "curl http://$http/v1/completions -H 'Content-Type: application/json' -d '$2'"
  curl -sS --fail-with-body "http://$http/v1/completions" -H 'Content-Type: application/json' \
    -d "$2" >"$out/logs/answer-$1.json" || { cat "$out/logs/answer-$1.json" >&2; fail "the server refused"; }
  echo >>"$out/logs/answer-$1.json"  # the server's line has no end
  sed -n 's/.*"experts":\(\[[^]]*\]\).*/  answered by: \1/p' "$out/logs/answer-$1.json"
  sed -n 's/.*"text":"\(\([^"\\]\|\\.\)*\)".*/  text: \1/p' "$out/logs/answer-$1.json" | cut -c 1-160
  sed -n 's/.*"withheld":\[\({[^]]*\)\].*/  withheld: \1/p' "$out/logs/answer-$1.json"
}

# --------------------------------------------------------------------- memory
# peaks: JSON members "program": MiB.
peaks=
add_peak() { [ -n "$2" ] && peaks="$peaks${peaks:+, }\"$1\": $2"; }
# Of the commands that wrote to a --usage-file.
add_usage_peaks() {
  local line
  while IFS= read -r line; do
    # shellcheck disable=SC2001
    add_peak "motet $(sed 's/.*"command": "\([^"]*\)".*/\1/' <<<"$line")" "$(sed 's/.*"peak_rss_mib": \([0-9.]*\).*/\1/' <<<"$line")"
  done <"$1"
}
