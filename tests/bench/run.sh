#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the benchmarks and prints a table, or JSON:
#   [{"name","ours","peer","peer_name","ratio","unit","cpu"}]
# Each compares us with a peer side by side in one run; look at the ratio.
#
#   tests/bench/run.sh [NAME...] [-o text|json] [--rounds N] [--threads N]
#                      [--arithmetic f32|bf16] [--list]
#
# From the environment (docs/benchmarks.md has how to make each):
#   BUILD                      build folder (default: build)
#   MOTET_BENCH_MODELS         folder of the models (default: models)
#   MOTET_BENCH_PYTHON         Python with torch, transformers, peft, gguf,
#                              faiss-cpu
#   MOTET_BENCH_LLAMA_PYTHON   Python with llama-cpp-python
#   MOTET_BENCH_MERGEKIT_PYTHON  Python with mergekit
#   MOTET_BENCH_VECTORS        vectors of the row index (default: 1000000)
# A peer or a model that is not there leaves its rows without a ratio, and
# the row says what is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

format=text rounds=5 threads=$(nproc) list=
# bf16 products where they are the faster ones (math::FastBf16).
arithmetic=f32
grep -q avx512_bf16 /proc/cpuinfo && ! grep -q GenuineIntel /proc/cpuinfo &&
  [ "${MOTET_CPU:-avx512bf16}" = avx512bf16 ] && arithmetic=bf16
names=()
while (($#)); do
  case $1 in
    -o) format=${2:-}; shift ;;
    --rounds) rounds=${2:-}; shift ;;
    --threads) threads=${2:-}; shift ;;
    --arithmetic) arithmetic=${2:-}; shift ;;
    --list) list=1 ;;
    -h|--help) sed -n '3,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "[bench] got $1, want an option of --help" >&2; exit 2 ;;
    *) names+=("$1") ;;
  esac
  (($#)) && shift
done
case $format in
  text|json) ;;
  *) echo "[bench] got -o '$format', want text or json" >&2; exit 2 ;;
esac
for number in "$rounds" "$threads"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] ||
    { echo "[bench] got '$number', want a number from 1" >&2; exit 2; }
done

build=${BUILD:-build}
models=${MOTET_BENCH_MODELS:-models}
python=${MOTET_BENCH_PYTHON:-}
llama_python=${MOTET_BENCH_LLAMA_PYTHON:-}
mergekit_python=${MOTET_BENCH_MERGEKIT_PYTHON:-}
peers=tests/bench/peers
cache=$build/bench-cache
table=
known=()

line() { local IFS=$'\t'; table+="$*"$'\n'; }

# player NAME NEEDS... -- PROGRAM ARGUMENT...: a side, where all files are
# there; else its rows say what is missing.
player() {
  local name=$1 need
  shift
  while [ "$1" != -- ]; do
    need=$1
    shift
    [ -e "$need" ] && continue
    line absent "$name" "no $need"
    return
  done
  shift
  line player "$name" "$@"
}
# python_player NAME INTERPRETER VARIABLE MODULE NEEDS... -- SCRIPT ARGUMENT...
python_player() {
  local name=$1 interpreter=$2 variable=$3 module=$4
  shift 4
  if [ -z "$interpreter" ]; then
    line absent "$name" "$variable is not set"
  elif ! "$interpreter" -c "import importlib.util as u, sys
sys.exit(u.find_spec('$module') is None)" 2>/dev/null; then
    line absent "$name" "$interpreter has no $module"
  else
    local needs=()
    while [ "$1" != -- ]; do needs+=("$1"); shift; done
    shift
    player "$name" "${needs[@]}" -- "$interpreter" "$@"
  fi
}
# row NAME UNIT higher|lower TARGET "PLAYER TASK" ["PLAYER TASK LABEL"...]
row() {
  known+=("$1")
  ((${#names[@]} == 0)) || [[ " ${names[*]} " == *" $1 "* ]] || return 0
  line row "$@"
}

smollm2=$models/smollm2-135m
smollm2_gguf=$models/smollm2-135m-bf16.gguf
minilm=$models/minilm-l6
branches=$models/merge
prompt='The capital of France is'

# ---- The sides -----------------------------------------------------------
player train -- "$build/tests/train_bench" --smollm2 "$smollm2" \
  --arithmetic "$arithmetic"
player serve "$models/moe/hf" -- "$build/tests/serve_bench" \
  --model "$models/moe/hf" --arithmetic "$arithmetic"
player memory "$models/moe/hf" -- "$build/tests/serve_bench" \
  --model "$models/moe/hf" --arithmetic "$arithmetic"
player load "$smollm2" -- "$build/tests/load_bench" "$build/motet" \
  generate "$smollm2" --prompt "$prompt" --max-tokens 1
player encode "$minilm" -- "$build/tests/encode_bench" --model "$minilm" \
  --arithmetic "$arithmetic"
python_player encode_transformers "$python" MOTET_BENCH_PYTHON transformers \
  "$minilm" -- $peers/encode_transformers.py "$minilm"
player adapter "$minilm" -- "$build/tests/adapter_bench" --model "$minilm" \
  --arithmetic "$arithmetic"
python_player adapter_peft "$python" MOTET_BENCH_PYTHON peft \
  "$minilm" -- $peers/adapter_peft.py "$minilm"
python_player pytorch "$python" MOTET_BENCH_PYTHON transformers \
  -- $peers/pytorch_train.py "$smollm2"
python_player llama "$llama_python" MOTET_BENCH_LLAMA_PYTHON llama_cpp \
  "$models/moe/moe-bf16.gguf" "$models/moe/moe-f32.gguf" \
  -- $peers/llama_cpp_moe.py "$models/moe"
python_player load_llama "$llama_python" MOTET_BENCH_LLAMA_PYTHON llama_cpp \
  "$smollm2" -- $peers/load.py llama_cpp "$smollm2_gguf" "$prompt"
python_player load_transformers "$python" MOTET_BENCH_PYTHON transformers \
  "$smollm2" -- $peers/load.py transformers "$smollm2" "$prompt"
player bam "$smollm2" -- "$build/tests/bam_bench" --model "$smollm2" \
  --arithmetic "$arithmetic"
player merge "$smollm2" "$branches/model2" -- "$build/tests/merge_bench" \
  --base "$smollm2" --models "$branches" --out "$cache/merge"
player compose -- "$build/tests/compose_bench" --out "$cache/compose"
player index -- "$build/tests/index_bench" --out "$cache/index" \
  --vectors "${MOTET_BENCH_VECTORS:-1000000}"
python_player index_faiss "$python" MOTET_BENCH_PYTHON faiss \
  -- $peers/index_faiss.py "$cache/index" "${MOTET_BENCH_VECTORS:-1000000}"
player search "$minilm" -- "$build/tests/search_bench" --model "$minilm" \
  --out "$cache/search" --arithmetic "$arithmetic"
python_player mergekit "$mergekit_python" MOTET_BENCH_MERGEKIT_PYTHON \
  mergekit "$smollm2" "$branches/model2" \
  -- $peers/merge_mergekit.py "$smollm2" "$branches" "$cache/mergekit"

# ---- The rows ------------------------------------------------------------
row train_dense tokens/s higher 1.05 "train dense" \
  "pytorch dense_bf16 PyTorch compiled, bf16 autocast" \
  "pytorch dense_f32 PyTorch compiled, f32"
row train_dense_share tokens/s higher 0.85 "train dense" \
  "train products oneDNN, the step's products alone, $arithmetic"
row train_flexolmo_owner tokens/s higher 1.5 "train owner" \
  "pytorch owner_bf16 transformers, Mixtral of 2, bf16 autocast" \
  "pytorch owner_f32 transformers, Mixtral of 2, f32"
prefill_target=1.8
[ "$arithmetic" = bf16 ] && prefill_target=2.2
row prefill tokens/s higher $prefill_target "serve prefill" \
  "llama prefill_bf16 llama.cpp, bf16" "llama prefill_f32 llama.cpp, f32"
row decode_1 tokens/s higher 1.0 "serve decode_1" \
  "llama decode_1_bf16 llama.cpp, bf16" "llama decode_1_f32 llama.cpp, f32"
row decode_16 tokens/s higher 1.5 "serve decode_16" \
  "llama decode_16_bf16 llama.cpp, bf16" \
  "llama decode_16_f32 llama.cpp, f32"
row encode docs/s higher 1.2 "encode documents" \
  "encode_transformers bf16 transformers, sorted batches, bf16" \
  "encode_transformers f32 transformers, sorted batches, f32"
row encode_documents docs/s higher 1.2 "encode collection" \
  "encode_transformers bf16_collection transformers, sorted batches, bf16" \
  "encode_transformers f32_collection transformers, sorted batches, f32"
row train_adapter queries/s higher 1.3 "adapter train" \
  "adapter_peft bf16 peft, PyTorch, bf16 autocast" \
  "adapter_peft f32 peft, PyTorch, f32" \
  "adapter_peft bf16_sorted the same, sorted by length, bf16 autocast" \
  "adapter_peft f32_sorted the same, sorted by length, f32"
row excluded tokens/s higher 0.99 "serve decode_16_excluded" \
  "serve decode_16 ours, without exclusion"
row anchored tokens/s higher 0.95 "serve decode_16_anchored" \
  "serve decode_16 ours, plain top-2"
row bam_decode tokens/s higher 1.0 "bam bam_1" \
  "bam dense_1 ours, 4 dense models one after another"
row bam_decode_16 tokens/s higher 1.0 "bam bam_16" \
  "bam dense_16 ours, 4 dense models one after another"
row bam_shared_decode tokens/s higher 1.0 "bam shared_1" \
  "bam dense_1 ours, 4 dense models one after another"
row load s lower 1.0 "load first_token" \
  "load_llama first_token llama.cpp, bf16" \
  "load_transformers first_token transformers"
row prefill_threads tokens/s higher 1.7 "serve prefill@2" \
  "serve prefill@1 ours, one thread"
row tune tokens/s higher 0.8 "train tune" \
  "train dense ours, a dense model's whole steps"
row tune_btx tokens/s higher 0.8 "train tune_btx" \
  "train dense ours, a dense model's whole steps"
row train_threads tokens/s higher 1.7 "train dense@2" \
  "train dense@1 ours, one thread"
row memory_serve MiB lower 1.0 "memory resident" \
  "memory allowed mapped weights + KV cache + 150 MiB"
for kind in ties slerp linear; do
  row merge_$kind s lower 2.0 "merge $kind" "mergekit $kind mergekit, bf16"
  row memory_merge_$kind MiB lower 2.0 "merge ${kind}_memory" \
    "mergekit ${kind}_memory mergekit, bf16"
done
row export s lower 0.8 "compose export" "compose cp_synced cp, and on the disk"
row memory_export MiB lower 1.0 "compose export_memory" \
  "compose export_memory_allowed allowed"
row compose s lower 1.0 "compose compose" "compose compose_allowed allowed"
row memory_compose MiB lower 1.0 "compose compose_memory" \
  "compose compose_memory_allowed allowed"
# FAISS's wheel where there is one: the distribution's has the plainest
# instructions alone, and 10^6 vectors take it a quarter of an hour.
faiss="index faiss FAISS of the distribution, HNSW in memory"
[[ $table == *$'player\tindex_faiss\t'* ]] &&
  faiss="index_faiss faiss FAISS's wheel, HNSW in memory"
row index vectors/s higher 0.9 "index build" "$faiss"
row memory_index MiB lower 0.83 "index build_memory" \
  "${faiss/faiss FAISS/faiss_memory FAISS}"
row search_16 queries/s higher 0.45 "search search" \
  "search faiss ours, base encoder alone, and FAISS flat, batches of 16" \
  "search faiss_blas ours, base encoder alone, and FAISS flat by BLAS"
row search_16_base queries/s higher 0.9 "search search_base" \
  "search faiss ours, base encoder alone, and FAISS flat, batches of 16" \
  "search faiss_blas ours, base encoder alone, and FAISS flat by BLAS"
row routing us lower 1.0 "search routing" \
  "search routing_allowed 3 % of a query of search_16"

if [ -n "$list" ]; then
  printf '%s\n' "${known[@]}"
  exit 0
fi
for name in "${names[@]}"; do
  [[ " ${known[*]} " == *" $name "* ]] ||
    { echo "[bench] got $name, want one of: ${known[*]}" >&2; exit 2; }
done

# ---- What they need ------------------------------------------------------
{
  [ -f "$build/build.ninja" ] || cmake -S . -B "$build" -G Ninja
  ninja -C "$build" bench
  if [[ $table == *$'\n'row$'\t'load$'\t'* ]]; then
    ninja -C "$build" motet
    if [ ! -e "$smollm2_gguf" ] && [ -e "$smollm2" ] && [ -n "$python" ]; then
      "$python" $peers/smollm2_gguf.py "$smollm2" "$smollm2_gguf" ||
        echo "[bench] no $smollm2_gguf, so llama.cpp cannot load it"
    fi
  fi
} >&2

# torch.compile takes minutes once; kept beside the build.
mkdir -p "$cache/inductor"
TORCHINDUCTOR_CACHE_DIR=$(cd "$cache/inductor" && pwd)
export TORCHINDUCTOR_CACHE_DIR HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$threads
# In our place: who ends this script ends the measurement.
exec "$build/tests/driver_bench" --output "$format" --rounds "$rounds" \
  <<<"$table"
