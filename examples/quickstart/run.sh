#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A federation of three owners on this machine, from nothing to a served
# model, every step explained, with the commands that a user would type.
#
#   examples/quickstart/run.sh [--data DIR] [--out DIR] [--keep]
#
#   --data DIR   your own text instead of this machine's: DIR/public/*.jsonl
#                and DIR/OWNER/*.jsonl, a line {"text": "…"} a document
#   --out DIR    where the federation's files go (default: build/quickstart);
#                emptied first, if an earlier run made it
#   --keep       leave registry, nodes and server running at the end
set -u
set -o pipefail
. "$(dirname "$0")/../../.ci/setup.sh"

data= out= keep=
while [ $# -gt 0 ]; do
  case $1 in
    --data) [ $# -ge 2 ] || motet_die "[quickstart] got --data alone, want --data DIR"; data=$2; shift 2 ;;
    --out) [ $# -ge 2 ] || motet_die "[quickstart] got --out alone, want --out DIR"; out=$2; shift 2 ;;
    --keep) keep=1; shift ;;
    -h|--help) sed -n '3,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) motet_die "[quickstart] got $1, want --data DIR, --out DIR or --keep" ;;
  esac
done
out=${out:-$MOTET_BUILD/quickstart}
if [ -n "$data" ]; then
  data=$(cd "$data" 2>/dev/null && pwd) || motet_die "[quickstart] got a --data folder that is not there, want DIR with public/ and one folder an owner"
  ls "$data"/public/*.jsonl >/dev/null 2>&1 ||
    motet_die "[quickstart] got no $data/public/*.jsonl, want public text there: a line {\"text\": \"…\"} a document"
fi

example=quickstart
# shellcheck source=examples/common.sh disable=SC1091
. "$MOTET_SOURCE/examples/common.sh"

# ------------------------------------------------------------------- build
motet_packages
if [ ! -x "$MOTET_BUILD/motet" ]; then
  printf 'Building Motet (some minutes, once; log: %s)\n' "$MOTET_BUILD/build.log"
fi
motet_build motet motet-node motet-registry
export PATH=$MOTET_BUILD:$PATH
# Three nodes train at once on few cores: waiting threads must sleep.
export OMP_WAIT_POLICY=passive

if [ -e "$out" ]; then
  [ -e "$out/.quickstart" ] || motet_die "[quickstart] got --out $out, which this script did not make, want a new folder"
  rm -rf "$out"
fi
mkdir -p "$out/logs" "$out/data" || exit 1
touch "$out/.quickstart"
out=$(cd "$out" && pwd)
export MOTET_FEDERATION=$out/federation
usage=$out/logs/usage.jsonl
begin=$SECONDS
start=$(date +%s%N)

# -------------------------------------------------------------------- text
if [ -n "$data" ]; then
  step "Text: from $data"
  owners=()
  for d in "$data"/*/; do
    name=$(basename "$d")
    [ "$name" = public ] && continue
    ls "$d"*.jsonl >/dev/null 2>&1 && owners+=("$name")
  done
  [ ${#owners[@]} -ge 1 ] || fail "[quickstart] got no owner in $data, want a folder of JSONL files for each"
else
  step "Text: what every such machine has" \
    "C++ headers for the owner code, licences and copyrights for legal, Perl and" \
    "shell documentation for manual; C headers, build scripts, other text and a" \
    "thin slice of all three for the public."
  owners=(code legal manual)
  data=$out/data/raw
  bash "$MOTET_SOURCE/examples/quickstart/gather.sh" "$data" || fail "no text could be gathered; use --data DIR"
fi
restricted=legal
case " ${owners[*]} " in *" legal "*) ;; *) restricted=${owners[${#owners[@]} - 1]} ;; esac
silent=code
case " ${owners[*]} " in *" code "*) ;; *) silent=${owners[0]} ;; esac
show motet corpus import "$data/public/*.jsonl" --out "$out/data/public"
motet corpus import "$data"/public/*.jsonl --out "$out/data/public" || fail "public text"

# -------------------------------------------------------------- federation
step "1. A federation" \
  "Its own certificate authority; a registry and a coordinator's daemon on" \
  "loopback. Every connection is mutual TLS; there is no other kind."
federation_make demo
federation_start

step "   Three owners join" \
  "Each makes its own key and a request; the administrator approves it by the" \
  "key's fingerprint, told by another way. Private keys never move."
for owner in "${owners[@]}"; do
  node=$out/nodes/$owner
  owner_join "$owner"
  # The owner's own word on what may run and what may leave.
  {
    printf '# What the owner %s consents to without being asked.\n' "$owner"
    printf '[approve]\nmethods = ["flexolmo"]\n'
    printf 'publish = ["ffn weights", "router row and bias", "per-layer means and thresholds"]\n'
    printf 'only_from = ["spiffe://demo/coordinator/main"]\nmax_steps = 2000\nmin_public_fraction = 0.3\n\n'
    printf '[licence]\nspdx = "LicenseRef-%s-terms"\n' "$owner"
    [ "$owner" = "$restricted" ] && printf 'forbidden_purposes = ["advertising"]\n'
  } >"$node/policy.toml"
  show motet-node corpus import --dir "$node" "$data/$owner/*.jsonl"
  motet-node corpus import --dir "$node" "$data/$owner"/*.jsonl || fail "text of $owner"
done
run motet member list

# -------------------------------------------------------------------- base
step "2. A public base, its tokenizer too" \
  "The model that every expert is branched from, from public text alone; with it" \
  "the anchor statistics that the router will need. Signed, and published."
t=$(date +%s%N)
run motet --usage-file "$usage" base train --data "$out/data/public/train.jsonl" --steps 320 --warmup-steps 32
train_base=$(seconds "$t")
run motet base publish

# ----------------------------------------------------------------- experts
step "3. Training where the text lies" \
  "The coordinator offers a plan. Each node shows it, its owner's policy file" \
  "consents, it trains its own FFNs beside the frozen public ones (FlexOlmo, a" \
  "third public text in the batches), and publishes: manifest, weights, signature." \
  "The text stays where it is; what leaves is listed in the plan."
t=$(date +%s%N)
for owner in "${owners[@]}"; do
  owner_start "$owner" 1
done
cp "$MOTET_SOURCE/examples/quickstart/plan.toml" "$out/plan.toml"
run motet train offer "$out/plan.toml"
run motet train status first-light --watch
train_experts=$(seconds "$t")
printf '\n'
for owner in "${owners[@]:0:1}"; do
  printf '%s-- what the node of %s saw before it consented:%s\n' "$dim" "$owner" "$plain"
  awk '/a training plan/ {on = 1} on {print substr($0, 1, 110)} /approved by/ {exit}' "$out/logs/node-$owner.log"
done
run motet expert list

# ----------------------------------------------------------------- compose
step "4. A composition" \
  "A recipe names experts and router; the plan says what comes of it, its" \
  "guarantee, and what the licences mean; apply writes a lock, and rewrites nothing."
t=$(date +%s%N)
for router in anchored topk; do
  {
    printf 'name = "demo%s"\nmethod = "flexolmo"\nexperts = [' "$([ $router = topk ] && echo -topk)"
    for owner in "${owners[@]}"; do printf '"%s.example/%s", ' "$owner" "$owner"; done
    printf ']\n\n[router]\nkind = "%s"\n' "$router"
  } >"$out/recipe-$router.toml"
done
run motet compose plan "$out/recipe-anchored.toml"
for router in anchored topk; do
  show motet compose apply "$out/recipe-$router.toml"
  motet compose apply "$out/recipe-$router.toml" >"$out/logs/apply-$router.log" 2>&1 ||
    { cat "$out/logs/apply-$router.log" >&2; fail "compose apply"; }
  tail -n 1 "$out/logs/apply-$router.log"
done
compose=$(seconds "$t")

# ---------------------------------------------------------------- evaluate
step "5. Does it help? Perplexity on text that nobody trained on" \
  "Models down, domains across; lower is better, * is the best of a column." \
  "The owners lend their test files for this table alone."
domains=()
for owner in "${owners[@]}"; do domains+=(--domain "$owner=$out/nodes/$owner/corpus/test.jsonl"); done
domains+=(--domain "public=$out/data/public/test.jsonl")
run motet --usage-file "$usage" eval matrix demo "${domains[@]}" --max-tokens 12288 --svg "$out/matrix.svg" --json "$out/matrix.json"
printf 'As a picture: %s\n' "$out/matrix.svg"

# ------------------------------------------------------------------- serve
step "6. Serving it, OpenAI-compatible" \
  "The same prompt three times: with all experts; without $silent; and for the" \
  "purpose advertising, which the licence of $restricted forbids."
serve_start demo
prompt='The terms of this'
ask all "{\"model\": \"demo\", \"prompt\": \"$prompt\", \"max_tokens\": 24, \"temperature\": 0}"
ask exclude "{\"model\": \"demo\", \"prompt\": \"$prompt\", \"max_tokens\": 24, \"temperature\": 0, \"experts\": {\"exclude\": [\"$silent\"]}}"
ask purpose "{\"model\": \"demo\", \"prompt\": \"$prompt\", \"max_tokens\": 24, \"temperature\": 0, \"purpose\": \"advertising\"}"
serve_mib=$(peak_mib "$serve_pid")
grep -q "$silent.example" "$out/logs/answer-exclude.json" && fail "$silent answered although it was excluded"
grep -q '"withheld":\[{' "$out/logs/answer-purpose.json" || fail "the licence of $restricted was not obeyed"

# ------------------------------------------------------------------- proof
step "7. Proof: excluded is the same as never composed" \
  "For every expert, the logits of a query that excludes it against those of a" \
  "composition built without it: SHA-256 of the raw numbers."
tests=()
for owner in "${owners[@]}"; do tests+=(--data "$out/nodes/$owner/corpus/test.jsonl"); done
run motet eval exclusion demo "${tests[@]}"
motet -o json eval exclusion demo "${tests[@]}" 2>/dev/null >"$out/logs/exclusion.json" || fail "an exclusion left a trace"

# ----------------------------------------------------------------- summary
add_usage_peaks "$usage"
add_peak "motet-registry" "$(peak_mib "$registry_pid")"
add_peak "motet daemon" "$(peak_mib "$daemon_pid")"
add_peak "motet serve" "$serve_mib"
i=2
for owner in "${owners[@]}"; do add_peak "motet-node $owner" "$(peak_mib "${pids[$i]}")"; i=$((i + 1)); done
total=$(seconds "$start")
{
  printf '{"perplexity": '; cat "$out/matrix.json"
  printf ',\n"exclusion": '; cat "$out/logs/exclusion.json"
  printf ',\n"seconds": {"train_base": %s, "train_experts": %s, "compose": %s, "total": %s},\n' \
    "$train_base" "$train_experts" "$compose" "$total"
  printf '"peak_rss_mib": {%s}}\n' "$peaks"
} >"$out/report.json"
step "Done in $((SECONDS - begin)) s" \
  "Everything is in $out:" \
  "  federation/   certificates, base, packages with signatures, compositions" \
  "  nodes/        the owners' own folders: keys, text, jobs, policies" \
  "  matrix.svg    the table as a picture;  report.json  all figures" \
  "Try next, with MOTET_FEDERATION=$MOTET_FEDERATION:" \
  "  motet expert show ${owners[0]}.example/${owners[0]}@1.0.0" \
  "  motet expert verify $MOTET_FEDERATION/packages/$(ls "$MOTET_FEDERATION/packages" | head -n 1)" \
  "  motet compose export demo-topk --format hf --out my-model" \
  "  motet eval matrix demo --router topk --domain mine=FILE.jsonl"
if [ -n "$keep" ]; then
  printf 'Still running (--keep): http://%s, registry %s, coordinator %s. Stop them: kill %s\n' \
    "$http" "$registry" "$coordinator" "${pids[*]}"
  trap - EXIT
fi
exit 0
