# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh: the rows of rows.txt as compositions, their perplexities
# as ROOT/seed-N/rows/NAME.csv and then one line each in DOCS/reproduction/
# seed-N.csv; tables and figures from the seeds that are there.
# shellcheck shell=bash disable=SC2154

trim() { sed 's/^ *//; s/ *$//'; }
# The anchored rows: mixing x smoothing x gate, over the experts each suits.
anchored_rows() {
  local mixing smoothing gate experts recipe name
  for mixing in pair switch; do
    experts=ffn
    [ $mixing = switch ] && experts=ffn-alone
    for smoothing in 0 0.8 prefix; do
      for gate in 0.9 0.97 0.995 off; do
        name=anchored-$mixing-$smoothing-$gate
        recipe="[router]; kind = \"anchored\"; mixing = \"$mixing\"; smoothing = $([ $smoothing = prefix ] && echo '"prefix"' || echo $smoothing)"
        if [ $gate = off ]; then recipe="$recipe; gate = false"; else recipe="$recipe; quantile = $gate"; fi
        printf '%s | %s | yes | %s | anchored, %s, a = %s, gate %s\n' "$name" "$experts" "$recipe" "$mixing" "$smoothing" "$gate"
      done
    done
  done
  echo 'anchored-switch-of-pairs | ffn | no | [router]; kind = "anchored"; mixing = "switch"; smoothing = 0.8; gate = false | anchored, switch over experts trained as pairs, a = 0.8, gate off'
}
# Every row, EACH spelled out.
all_rows() {
  local owner line
  grep -v '^#' "$here/rows.txt" | while IFS= read -r line; do
    case $line in
      *EACH*) for owner in "${owners[@]}"; do printf '%s\n' "${line//EACH/$owner}"; done ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
  anchored_rows
}
measure_steps() {
  all_rows | while IFS='|' read -r name _ without _; do
    name=$(trim <<<"$name")
    case $without in *told*) ;; *yes*) echo "6 row-$name measure_row $name" ;; *) echo "1 row-$name measure_row $name" ;; esac
  done
}

# experts_of WHAT: the packages of a row.
experts_of() {
  local owner
  for owner in "${owners[@]}"; do
    case $1 in
      *:*) [ "$owner" = "${owners[0]}" ] && echo "${1#*:}.example/${1%%:*}" ;;
      hdee)
        if grep -q " $owner\$" <(smaller | sed 's/^/ /'; larger | sed 's/^/ /'); then
          echo "$owner.example/steps"
        else
          echo "$owner.example/branch"
        fi ;;
      *) echo "$owner.example/$1" ;;
    esac
  done
}
# The manifest of a package, by its id without version; the base's too.
manifest_of() { grep -l "^ \"id\": \"$1@" "$out"/federation/packages/*/manifest.json "$out"/federation/base/manifest.json 2>/dev/null | head -n 1; }
tokens_of() {
  awk '/"training": \{/ {on = 1} on && /"tokens":/ {gsub(/[^0-9]/, ""); print; exit}' "$(manifest_of "$1")"
}
weights_bytes_of() { wc -c <"$(dirname "$(manifest_of "$1")")/weights.safetensors"; }
domain_tokens_of() { wc -c <"$out/nodes/$1/corpus/train.jsonl"; }
weights_by_text() {
  local owner
  for owner in "${owners[@]}"; do domain_tokens_of "$owner"; done |
    awk '{b[NR] = $1; all += $1} END {rest = 1; for (i = 1; i < NR; ++i) {w = sprintf("%.4f", b[i] / all); rest -= w; printf "%s, ", w} printf "%.4f", rest}'
}

measured() {  # measured NAME...: what eval matrix is asked for every row
  local d asked=()
  for d in "${domains[@]}"; do
    asked+=(--domain "$d=${held[$d]:-$out/nodes/$d/corpus/test.jsonl}")
  done
  run motet eval matrix "$@" "${asked[@]}" --window "$sequence_tokens" --max-tokens "$eval_tokens"
}
measure_row() {  # measure_row NAME
  local name=$1 line experts without recipe ids kinds
  line=$(all_rows | awk -F'|' -v name="$name" '{n = $1; gsub(/ /, "", n)} n == name')
  experts=$(cut -d'|' -f2 <<<"$line" | trim)
  without=$(cut -d'|' -f3 <<<"$line" | trim)
  recipe=$(cut -d'|' -f4 <<<"$line" | trim)
  daemons_start
  if [ "$experts" = - ]; then
    measured "${owners[0]}.example/ffn" --rows base --csv "$out/rows/$name.csv"
    return
  fi
  mapfile -t ids < <(experts_of "$experts")
  recipe=${recipe/WEIGHTS/[$(weights_by_text)]}
  recipe=${recipe/TUNING/[tuning]; data = [\"$root/text/proxy.jsonl\"]; steps = $owner_steps; batch_sequences = $batch_sequences; sequence_tokens = $sequence_tokens; seed = $seed}
  {
    printf 'name = "%s"\nexperts = [%s]\n' "$name" "$(printf '"%s", ' "${ids[@]}")"
    # Keys of the recipe come before its sections.
    tr ';' '\n' <<<"$recipe" | trim
  } >"$out/recipes/$name.toml"
  patiently motet -o json compose plan "$out/recipes/$name.toml" >"$out/logs/plan-$name.json"
  sed '/^  \$/d' "$out/logs/plan-$name.json" >"$out/rows/$name.plan.json"
  patiently motet compose apply "$out/recipes/$name.toml" >"$out/logs/apply-$name.log"
  kinds=composition
  [ "$without" = yes ] && kinds=composition,without
  measured "$name" --rows "$kinds" --csv "$out/rows/$name.csv"
}
# One line a row and expert left out, of what is measured so far.
collect_seed() {
  local name experts recipe id tokens bytes file=$docs/reproduction/seed-$seed.csv
  {
    printf 'row,without'
    printf ',%s' "${domains[@]}" owners all active_parameters parameters tokens bytes
    printf '\n'
    while IFS='|' read -r name experts _ recipe _; do
      name=$(trim <<<"$name") experts=$(trim <<<"$experts")
      [ -e "$out/done/row-$name" ] || continue
      tokens=$(tokens_of reproduction/base) bytes=$(weights_bytes_of reproduction/base)
      case $recipe in *TUNING*) tokens=$((tokens + owner_steps * batch_sequences * sequence_tokens)) ;; esac
      if [ "$experts" != - ]; then
        for id in $(experts_of "$experts"); do
          tokens=$((tokens + $(tokens_of "$id"))) bytes=$((bytes + $(weights_bytes_of "$id")))
        done
        # A merge is served from its own file.
        [ -e "$out/federation/compositions/$name/weights.safetensors" ] &&
          bytes=$(wc -c <"$out/federation/compositions/$name/weights.safetensors")
      fi
      # The means are over all owners' domains, which come first, also where
      # a row has one owner's expert alone.
      awk -F, -v row="$name" -v numbers="$(plan_numbers "$name"),$tokens,$bytes" -v owners="${#owners[@]}" '
        NR == 1 || $3 ~ /^\(/ {next}
        $1 != model {put(); model = $1; line = ""; n = own = all = 0}
        {line = line "," sprintf("%.4f", $4); all += log($4); if (++n <= owners) own += log($4)}
        END {put()}
        function put(  without) {
          if (model == "") return
          without = model
          if (!sub(/.*without /, "", without)) without = ""
          printf "%s,%s%s,%.4f,%.4f,%s\n", row, without, line, exp(own / owners), exp(all / n), numbers
        }' "$out/rows/$name.csv"
    done < <(all_rows)
  } >"$file.part"
  told expert "$file.part" >"$file.told"
  told branch "$file.part" >>"$file.told"
  cat "$file.told" >>"$file.part"
  rm "$file.told"
  mv "$file.part" "$file"
  printf 'Seed %s: %s lines in %s\n' "$seed" "$(($(wc -l <"$file") - 1))" "$file"
}
# told PREFIX FILE: the row "told-PREFIX", as if someone said of every text
# whose it is: each owner's domain by the row PREFIX-OWNER, the others by the
# base.
told() {
  awk -F, -v prefix="$1" -v owner_count="${#owners[@]}" '
    NR == 1 {for (i = 3; i <= NF; ++i) head[i] = $i; next}
    $2 != "" {next}
    $1 == "base" {for (i = 3; i <= NF; ++i) base[i] = $i}
    index($1, prefix "-") == 1 {
      owner = substr($1, length(prefix) + 2)
      for (i = 3; i <= NF; ++i) if (head[i] == owner) {cell[i] = $i; ++found}
      for (i = NF - 3; i <= NF; ++i) cost[i] = (i < NF - 2 ? $i : cost[i] + $i)
      fields = NF
    }
    END {
      if (found < owner_count || base[3] == "") exit
      line = "told-" prefix ","
      for (i = 3; i <= fields - 6; ++i) {
        v = i in cell ? cell[i] : base[i]
        line = line "," v
        all += log(v); ++n
        if (i in cell) {own += log(v); ++m}
      }
      # The base is counted once; branches are whole models.
      for (i = fields - 2; i <= fields; ++i) {
        if (i == fields - 1 || prefix == "expert") cost[i] -= (found - 1) * base[i]
      }
      if (base[fields - 2] == 0) cost[fields - 2] = 0  # not known yet
      printf "%s,%.4f,%.4f,%d,%d,%d,%d\n", line, exp(own / m), exp(all / n), cost[fields - 3], cost[fields - 2], cost[fields - 1], cost[fields]
    }' "$2"
}
# active and all parameters of a row's plan; the base is as a merge is.
plan_numbers() {
  local plan=$out/rows/$1.plan.json
  [ -e "$plan" ] || plan=$out/rows/pooled.plan.json
  [ -e "$plan" ] || { echo 0,0; return; }  # not known yet
  awk '
    {n = $0; gsub(/[^0-9]/, "", n)}
    /^  "parameters":/ {p = n}
    /^  "active_parameters":/ {a = n}
    END {print a "," p}' "$plan"
}

# Tables and figures from every seed's file that is in DOCS/reproduction, of
# this run or another; between the marks of DOCS/reproduction.md.
collect_all() {
  local files=("$docs"/reproduction/seed-*.csv) page=$docs/reproduction.md labels=$root/labels
  [ -s "${files[0]}" ] || return 0
  [ -e "$page" ] || cp "$MOTET_SOURCE/docs/reproduction.md" "$page"
  all_rows | awk -F'|' '{n = $1; gsub(/ /, "", n); l = $5; sub(/^ */, "", l); print n "|" l}' >"$labels"
  awk -v orderings="$here/orderings.txt" -f "$here/stats.awk" -f "$here/table.awk" - "${files[@]}" <"$labels" >"$root/table.md" ||
    fail "the table could not be made"
  awk -v figure=rows -f "$here/stats.awk" -f "$here/picture.awk" - "${files[@]}" <"$labels" >"$docs/reproduction/rows.svg"
  awk -v figure=gate -f "$here/stats.awk" -f "$here/picture.awk" - "${files[@]}" <"$labels" >"$docs/reproduction/gate.svg"
  awk -v table="$root/table.md" '
    /^<!-- table/ {print; print ""; while ((getline line < table) > 0) print line; print ""; skip = 1}
    /^<!-- end/ {skip = 0}
    !skip' "$page" >"$page.part" && mv "$page.part" "$page"
  step "Tables and figures of ${#files[@]} seeds" "$page" "$docs/reproduction/rows.svg, gate.svg"
}
