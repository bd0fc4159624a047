#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every decoder family through Motet and back, in stock transformers.

No part of the build or of ctest: it needs a Python environment with torch,
transformers and safetensors.

    PYTHON tests/peers/families.py MOTET [--keep DIR] [MODEL_DIR ...]

Builds a tiny random model of each family (f32, some bf16 and f16, windows,
tied heads, scaled RoPE, transformers 4's spelling of config.json, sharded
files, fused experts), has `motet model convert` write it again, loads both
folders in transformers and compares the logits. MODEL_DIRs are compared too.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers as T
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-5  # of the largest logit; the weights are the same numbers

BASE = dict(vocab_size=211, hidden_size=48, num_hidden_layers=3,
            num_attention_heads=6, num_key_value_heads=2,
            intermediate_size=100, max_position_embeddings=128,
            rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


def base(**changes):
    return {**BASE, "rope_parameters": dict(ROPE), **changes}


CASES = {
    "llama": (T.LlamaConfig, base(), {}),
    "llama_tied": (T.LlamaConfig, base(tie_word_embeddings=True), {}),
    "llama3": (T.LlamaConfig, base(rope_parameters=dict(LLAMA3),
                                   eos_token_id=[2, 3]), {}),
    "llama3_v4": (T.LlamaConfig, base(rope_parameters=dict(LLAMA3)),
                  {"v4": True}),
    "llama_bf16": (T.LlamaConfig, base(), {"dtype": torch.bfloat16}),
    "llama_f16": (T.LlamaConfig, base(), {"dtype": torch.float16}),
    "llama_shards": (T.LlamaConfig, base(), {"shard": "60KB"}),
    "mistral": (T.MistralConfig, base(sliding_window=None), {}),
    "mistral_window": (T.MistralConfig, base(sliding_window=7), {}),
    "qwen2": (T.Qwen2Config, base(), {}),
    "qwen2_window": (T.Qwen2Config, base(use_sliding_window=True,
                                         sliding_window=5,
                                         max_window_layers=1), {}),
    "qwen3": (T.Qwen3Config, base(head_dim=16), {}),
    "qwen3_tied_v4": (T.Qwen3Config, base(head_dim=16,
                                          tie_word_embeddings=True),
                      {"v4": True}),
    "olmo2": (T.Olmo2Config, base(), {}),
    "flex_olmo": (T.FlexOlmoConfig, base(num_experts=4, num_experts_per_tok=2,
                                         norm_topk_prob=False), {}),
    "flex_olmo_fused": (T.FlexOlmoConfig, base(num_experts=4,
                                               num_experts_per_tok=2),
                        {"fuse": True}),
    "mixtral": (T.MixtralConfig, base(num_local_experts=4,
                                      num_experts_per_tok=2), {}),
    "mixtral_tied": (T.MixtralConfig, base(num_local_experts=4,
                                           num_experts_per_tok=2,
                                           tie_word_embeddings=True), {}),
    "mixtral_window": (T.MixtralConfig, base(num_local_experts=4,
                                             num_experts_per_tok=2,
                                             sliding_window=6,
                                             rope_parameters=dict(LLAMA3)),
                       {}),
    "mixtral_fused": (T.MixtralConfig, base(num_local_experts=4,
                                            num_experts_per_tok=2),
                      {"fuse": True}),
    "olmoe": (T.OlmoeConfig, base(num_experts=6, num_experts_per_tok=3,
                                  norm_topk_prob=False), {}),
    "olmoe_v4": (T.OlmoeConfig, base(num_experts=6, num_experts_per_tok=3,
                                     norm_topk_prob=True), {"v4": True}),
    "qwen3_moe": (T.Qwen3MoeConfig, base(head_dim=16, num_experts=5,
                                         num_experts_per_tok=2,
                                         moe_intermediate_size=36,
                                         norm_topk_prob=True), {}),
    "qwen3_moe_bf16": (T.Qwen3MoeConfig, base(head_dim=16, num_experts=70,
                                              num_experts_per_tok=4,
                                              moe_intermediate_size=20,
                                              norm_topk_prob=False),
                       {"dtype": torch.bfloat16}),
    "qwen3_moe_fused": (T.Qwen3MoeConfig, base(head_dim=16, num_experts=5,
                                               num_experts_per_tok=2,
                                               moe_intermediate_size=36),
                        {"fuse": True}),
}


def spread(model, generator):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                scale = 0.3 if "embed" in name else p.shape[-1] ** -0.5
                if name.endswith("gate.weight") and p.dim() == 2:
                    scale *= 3
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
            else:
                shift = 0.0 if "bias" in name else 1.0
                p.copy_(shift + 0.2 * torch.randn(p.shape,
                                                  generator=generator))


def as_v4(folder):
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        config = json.load(f)
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    if "num_local_experts" in config and "mixtral" not in config["model_type"]:
        config["num_experts"] = config.pop("num_local_experts")
    with open(path, "w") as f:
        json.dump(config, f)


def fuse(folder, model):
    """The layout of transformers 5's memory, as some files have it."""
    path = os.path.join(folder, "model.safetensors")
    tied = model.config.tie_word_embeddings
    state = {n: p.contiguous() for n, p in model.state_dict().items()
             if not (tied and n == "lm_head.weight")}
    assert any("gate_up_proj" in n for n in state)
    os.remove(path)
    save_file(state, path, metadata={"format": "pt"})


def logits(folder, ids):
    model = T.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return type(model).__name__, model(input_ids=ids,
                                           use_cache=False).logits


def compare(motet, name, folder, out, vocabulary, generator, reference=None):
    done = subprocess.run([motet, "model", "convert", folder, "--out", out],
                          capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{name:16s} FAILED: {done.stderr.strip()}")
        return False
    ids = torch.randint(3, vocabulary, (2, 40), generator=generator)
    if reference is None:
        kind, want = logits(folder, ids)
    else:
        kind = type(reference).__name__
        with torch.no_grad():
            want = reference(input_ids=ids, use_cache=False).logits
    again, got = logits(out, ids)
    error = float((want - got).abs().max() / want.abs().max())
    ok = kind == again and error <= TOLERANCE
    print(f"{name:16s} {kind:22s} largest difference {error:.1e} "
          f"{'ok' if ok else 'FAILED, got ' + again}")
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("motet")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--keep")
    args = parser.parse_args()
    root = args.keep or tempfile.mkdtemp()
    generator = torch.Generator().manual_seed(7)
    good = 0
    for name, (kind, fields, how) in CASES.items():
        config = kind(**fields)
        config._attn_implementation = "eager"
        model = T.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32).eval()
        spread(model, generator)
        dtype = how.get("dtype", torch.float32)
        if dtype != torch.float32:
            model = model.to(dtype)
        folder = os.path.join(root, name)
        model.save_pretrained(folder,
                              max_shard_size=how.get("shard", "10GB"))
        model = model.float()
        if how.get("v4"):
            as_v4(folder)
        if how.get("fuse"):
            fuse(folder, model)
        # .to(dtype) rounds RoPE's frequencies too, which loading does not.
        reference = model if dtype == torch.float32 else None
        good += compare(args.motet, name, folder, folder + ".out",
                        config.vocab_size, generator, reference)
    for folder in args.models:
        with open(os.path.join(folder, "config.json")) as f:
            vocabulary = json.load(f)["vocab_size"]
        name = os.path.basename(os.path.normpath(folder))
        good += compare(args.motet, name, folder,
                        os.path.join(root, name + ".out"), vocabulary,
                        generator)
    total = len(CASES) + len(args.models)
    print(f"{good} of {total} the same")
    return 0 if good == total else 1


if __name__ == "__main__":
    sys.exit(main())
