# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh: the steps of a seed that train. Each may be interrupted
# and called again: bases and nodes go on from their checkpoints, and a plan
# that is offered twice is one plan.
# shellcheck shell=bash disable=SC2154

daemons_start() {
  [ -n "$daemons" ] && return
  federation_start
  for owner in "${owners[@]}" pooled; do owner_start "$owner" "$(threads_of "$owner")"; done
  daemons=yes
}
# The owners train at once, one thread each; the pooled one alone.
threads_of() { if [ "$1" = pooled ]; then nproc; else echo 1; fi; }
cleanup_daemons() {
  [ ${#pids[@]} -gt 0 ] && end "${pids[@]}"
  pids=() daemons=
}

join_all() {
  rm -rf "$out/federation" "$out/nodes" "$out/plans" "$out/recipes" "$out/rows"
  mkdir -p "$out/plans" "$out/recipes" "$out/rows"
  federation_make reproduction
  federation_start
  for owner in "${owners[@]}" pooled; do
    owner_join "$owner"
    {
      printf '# Everything that this table needs is approved.\n'
      printf '[approve]\nmethods = ["flexolmo", "branch"]\n'
      printf 'publish = ["ffn weights", "router row and bias", "all weights",\n'
      printf '  "per-layer means and thresholds", "second moments of router inputs",\n'
      printf '  "perplexity of the base on held-out text"]\n'
      printf 'only_from = ["spiffe://reproduction/coordinator/main"]\n'
    } >"$out/nodes/$owner/policy.toml"
    run motet-node corpus import --dir "$out/nodes/$owner" "$root/text/$owner.jsonl"
  done
  cleanup_daemons
}

base_train() {
  local shape=(--width "$width" --layers "$layers" --heads "$heads" --ffn-width "$ffn_width" --vocabulary "$vocabulary")
  if [ ! -e "$out/federation/base/manifest.json" ]; then
    run motet base train --data "$root/text/public/train.jsonl" "${shape[@]}" --steps "$base_steps" \
      --batch-sequences "$batch_sequences" --sequence-tokens "$sequence_tokens" \
      --learning-rate "$base_rate" --anchor-tokens "$anchor_tokens" --seed "$seed"
  fi
  daemons_start
  patiently motet base publish
}

# offer ID TEMPLATE RATE STEPS [LINE…]: writes the plan from its template,
# offers it and follows it to the end.
offer() {
  local id=$1 template=$2 rate=$3 steps=$4
  shift 4
  {
    printf 'id = "%s"\nsteps = %s\nwarmup_steps = %s\nlearning_rate = %s\nseed = %s\n' \
      "$id" "$steps" "$warmup_steps" "$rate" "$seed"
    printf 'batch_sequences = %s\nsequence_tokens = %s\nstatistics_tokens = %s\ncheckpoint_every = 100\n' \
      "$batch_sequences" "$sequence_tokens" "$statistics_tokens"
    printf '%s\n' "$@"
    cat "$here/plans/$template.toml"
  } >"$out/plans/$id.toml"
  daemons_start
  patiently motet train offer "$out/plans/$id.toml"
  # Nodes that have not dialled yet have no job: their packages tell.
  while :; do
    patiently motet train status "$id" --watch
    [ "$(motet -o json train status "$id" | grep -o '"state": *"published"' | wc -l)" -ge "$(grep -o '\.example"' <<<"$*" | wc -l)" ] && break
    sleep 1
  done
}
# A busy or suspended machine answers late: a command of the network is tried
# again, and each may be.
patiently() {
  local try
  show "$@"
  for try in 1 2 3 4 5; do
    wait_for "$@" && return
    [ "$try" = 5 ] || sleep 2
  done
  fail "the command above failed"
}
quoted() { printf '"%s.example", ' "$@"; }
all_owners() { printf 'owners = [%s]' "$(quoted "${owners[@]}")"; }
train_plan() {  # train_plan TEMPLATE: of every owner, published as OWNER/TEMPLATE
  local rate=$branch_rate
  case $1 in ffn*) rate=$ffn_rate ;; esac
  offer "$1" "$1" "$rate" "$owner_steps" "expert_name = \"$1\"" "$(all_owners)"
}
train_pooled() {
  offer pooled pooled "$branch_rate" $((owner_steps * ${#owners[@]})) 'expert_name = "pooled"' 'owners = ["pooled.example"]'
}

# How hard each owner's text is to the base, on what its node keeps back; the
# owners tell these numbers. The easiest two are to get the smaller size, the
# hardest two the larger, so that the total is that of equal sizes.
probe_difficulty() {
  local asked=() owner
  daemons_start
  for owner in "${owners[@]}"; do asked+=(--domain "$owner=$out/nodes/$owner/corpus/test.jsonl"); done
  run motet eval matrix "${owners[0]}.example/ffn" "${asked[@]}" --window "$sequence_tokens" \
    --max-tokens "$((64 * sequence_tokens))" --csv "$out/probe.csv"
  awk -F, '$1 == "base" && $3 !~ /^\(/ {print $4, $3}' "$out/probe.csv" | sort -g >"$out/difficulty.part"
  mv "$out/difficulty.part" "$out/difficulty"
  cat "$out/difficulty"
}
smaller() { awk -v n="${#owners[@]}" 'NR <= int(n * 2 / 5 + 0.5) {print $2}' "$out/difficulty"; }
larger() { awk -v n="${#owners[@]}" 'NR > n - int(n * 2 / 5 + 0.5) {print $2}' "$out/difficulty"; }
# Half way, by ratio, between the ranks.
thresholds() {
  awk -v n="${#owners[@]}" '{p[NR] = $1} END {k = int(n * 2 / 5 + 0.5)
    printf "%.4f, %.4f", sqrt(p[k] * p[k + 1]), sqrt(p[n - k] * p[n - k + 1]) + (n == 2 * k ? 1e-3 : 0)}' "$out/difficulty"
}
train_width() {
  offer width width "$branch_rate" "$owner_steps" 'expert_name = "width"' "$(all_owners)" \
    "ffn_widths = [$narrow, $ffn_width, $wide]" "probe_thresholds = [$(thresholds)]"
}
train_steps() {
  local set
  mapfile -t set < <(smaller)
  offer steps-few steps "$branch_rate" "$few_steps" 'expert_name = "steps"' "owners = [$(quoted "${set[@]}")]"
  mapfile -t set < <(larger)
  offer steps-many steps "$branch_rate" "$many_steps" 'expert_name = "steps"' "owners = [$(quoted "${set[@]}")]"
}
