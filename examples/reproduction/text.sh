# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. From --data to ROOT/text: public.jsonl, OWNER.jsonl of
# each owner, pooled.jsonl of all, cut so that every owner has about as much;
# sets `owners` and, for measuring, `domains` with held[DOMAIN].
# shellcheck shell=bash disable=SC2154

# thin FILE... BYTES: documents spread evenly, about BYTES of them.
thin() {
  local bytes=${!#}
  set -- "${@:1:$#-1}"
  LC_ALL=C awk -v want="$bytes" -v all="$(cat "$@" | wc -c)" '
    {seen += length($0) + 1; share = all > want ? want / all : 1
     if (seen * share >= kept) {print; kept += length($0) + 1}}' "$@"
}

text_make() {
  local d text=$root/text files=()
  declare -gA held train
  owners=() domains=()
  if [ -z "$data" ]; then
    data=$root/raw
    if [ ! -e "$data/.done" ]; then
      step "Text: what every such machine has" "As in the quickstart: code, licences, documentation."
      quiet "$root/logs/gather.log" bash "$MOTET_SOURCE/examples/quickstart/gather.sh" "$data"
      touch "$data/.done"
    fi
  fi
  if [ -d "$data/text" ]; then
    owners=(law code maths shakespeare cli-docs)
    domains=("${owners[@]}" geography scripture python-specs)
    for d in "${domains[@]}"; do
      train[$d]=$data/text/${d//-/_}/train.jsonl  # names have no _
      held[$d]=$data/text/${d//-/_}/test.jsonl
      for file in "${train[$d]}" "${held[$d]}"; do
        [ -s "$file" ] || fail "[reproduction] got no $file, want it"
      done
    done
  else
    ls "$data"/public/*.jsonl >/dev/null 2>&1 || fail "[reproduction] got no $data/public/*.jsonl, want public text there"
    for d in "$data"/*/; do
      d=$(basename "$d")
      [ "$d" != public ] && ls "$data/$d"/*.jsonl >/dev/null 2>&1 && owners+=("$d")
    done
    [ ${#owners[@]} -ge 2 ] || fail "[reproduction] got ${#owners[@]} owners in $data, want two or more"
    domains=("${owners[@]}" public)
    held[public]=$text/public/test.jsonl
    # The owners' held-out text is what their nodes keep back.
  fi
  [ -e "$text/.done" ] && { proxy_make; return; }
  step "Text of ${#owners[@]} owners: ${owners[*]}"
  rm -rf "$text"
  mkdir -p "$text"
  if [ -d "$data/text" ]; then
    # A base knows a little of everything: one document in 12 of each owner.
    for d in "${owners[@]}"; do
      awk 'NR % 12 == 0' "${train[$d]}" >>"$text/slices"
      awk 'NR % 12' "${train[$d]}" >"$text/whole"
      thin "$text/whole" "$text_bytes" >"$text/$d.jsonl"
    done
    for d in "${domains[@]}"; do
      case " ${owners[*]} " in *" $d "*) ;; *) files+=("${train[$d]}") ;; esac
    done
    run motet corpus import "${files[@]}" "$text/slices" --out "$text/public" --test-percent 1
    rm -f "$text/whole" "$text/slices"
  else
    for d in "${owners[@]}"; do thin "$data/$d"/*.jsonl "$text_bytes" >"$text/$d.jsonl"; done
    run motet corpus import "$data"/public/*.jsonl --out "$text/public"
  fi
  for d in "${owners[@]}"; do cat "$text/$d.jsonl"; done >"$text/pooled.jsonl"
  touch "$text/.done"
  proxy_make
}

# ROOT/text/proxy.jsonl, what routers are tuned on at the coordinator: public
# text alone, half of it of the kinds that the owners have (METHODS 1, step 6).
# Here it is told which documents these are; a classifier at each owner, of
# which ids and scores leave, would have to find them.
proxy_make() {
  local d text=$root/text size=$((text_bytes / 8))
  [ -e "$text/proxy.jsonl" ] && return
  if [ -d "$data/text" ]; then
    for d in "${owners[@]}"; do
      awk 'NR % 12 == 0' "${train[$d]}" >"$text/slice"
      thin "$text/slice" "$size"
    done >"$text/proxy.part"
    for d in "${domains[@]}"; do
      case " ${owners[*]} " in *" $d "*) ;; *) thin "${train[$d]}" $((size * ${#owners[@]} / (${#domains[@]} - ${#owners[@]}))) ;; esac
    done >>"$text/proxy.part"
    rm "$text/slice"
  else
    thin "$text/public/train.jsonl" $((2 * size * ${#owners[@]})) >"$text/proxy.part"
  fi
  mv "$text/proxy.part" "$text/proxy.jsonl"
}
