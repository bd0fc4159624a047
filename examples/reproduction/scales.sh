# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh: the numbers of a scale, in one place.
# shellcheck shell=bash disable=SC2034  # run.sh reads them

scale_tiny() {  # a seed: 40 minutes or less on 2 cores
  width=128 layers=4 heads=4 ffn_width=384 vocabulary=2048
  batch_sequences=4 sequence_tokens=256
  base_steps=1500 base_rate=3e-3
  owner_steps=160            # of every owner's run: 0.16 M tokens
  ffn_rate=1.5e-3 branch_rate=1e-3 warmup_steps=16
  narrow=288 wide=480        # HDEE: a quarter less, a quarter more
  few_steps=120 many_steps=200
  text_bytes=1200000         # of each owner
  statistics_tokens=32768 anchor_tokens=65536
  eval_tokens=4096           # of each domain
}
scale_small() {  # a seed: hours
  width=320 layers=6 heads=5 ffn_width=896 vocabulary=4096
  batch_sequences=16 sequence_tokens=256
  base_steps=3000 base_rate=2e-3
  owner_steps=400
  ffn_rate=1e-3 branch_rate=7e-4 warmup_steps=20
  narrow=672 wide=1120
  few_steps=300 many_steps=500
  text_bytes=4000000
  statistics_tokens=65536 anchor_tokens=131072
  eval_tokens=16384
}
