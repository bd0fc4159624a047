# SPDX-License-Identifier: Apache-2.0
"""Writes a Llama-family Hugging Face folder with a byte-level BPE tokenizer
(SmolLM2-135M) as a bf16 GGUF file, for llama.cpp's side of the load row.

  smollm2_gguf.py FOLDER OUT.gguf
"""
import json
import os
import sys

import gguf
from safetensors.torch import load_file


def interleaved(weight, heads):
    """llama.cpp rotates neighbours where Hugging Face rotates halves."""
    rows, cols = weight.shape
    return (weight.reshape(heads, 2, rows // heads // 2, cols)
            .transpose(1, 2).reshape(rows, cols))


def tokenizer(writer, folder, config):
    with open(os.path.join(folder, "tokenizer.json")) as file:
        spec = json.load(file)
    vocabulary = {i: t for t, i in spec["model"]["vocab"].items()}
    special = {t["id"] for t in spec["added_tokens"] if t["special"]}
    vocabulary.update({t["id"]: t["content"] for t in spec["added_tokens"]})
    tokens, types = [], []
    for i in range(config["vocab_size"]):
        tokens.append(vocabulary.get(i, f"[PAD{i}]"))
        types.append(gguf.TokenType.CONTROL if i in special
                     else gguf.TokenType.NORMAL if i in vocabulary
                     else gguf.TokenType.UNUSED)
    merges = [m if isinstance(m, str) else " ".join(m)
              for m in spec["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def main():
    folder, out = sys.argv[1:]
    with open(os.path.join(folder, "config.json")) as file:
        c = json.load(file)
    rope = c.get("rope_parameters") or {}
    weights = load_file(os.path.join(folder, "model.safetensors"))
    writer = gguf.GGUFWriter(out + ".part", "llama")
    writer.add_name("smollm2")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_rope_dimension_count(
        c["hidden_size"] // c["num_attention_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or c["rope_theta"])
    writer.add_vocab_size(c["vocab_size"])
    tokenizer(writer, folder, c)

    def put(name, weight):
        if weight.dim() == 1:
            writer.add_tensor(name, weight.float().numpy())
        else:
            bf16 = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(
                name, gguf.quants.quantize(weight.float().numpy(), bf16),
                raw_dtype=bf16)

    put("token_embd.weight", weights["model.embed_tokens.weight"])
    put("output_norm.weight", weights["model.norm.weight"])
    if not c["tie_word_embeddings"]:
        put("output.weight", weights["lm_head.weight"])
    names = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj",
             "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    for layer in range(c["num_hidden_layers"]):
        for to, name in names.items():
            weight = weights[f"model.layers.{layer}.{name}.weight"]
            if to == "attn_q":
                weight = interleaved(weight, c["num_attention_heads"])
            if to == "attn_k":
                weight = interleaved(weight, c["num_key_value_heads"])
            put(f"blk.{layer}.{to}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(out + ".part", out)


if __name__ == "__main__":
    main()
