# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of the training rows, in tokens a second of whole steps
(forward, backward, clipping to norm 1, fused AdamW).

  pytorch_train.py SMOLLM2_DIR

Tasks: dense_f32, dense_bf16: Llama L8 C512 H8 F1376 V8192, B8 T256, from
transformers, under torch.compile. owner_f32, owner_bf16: SmolLM2-135M as a
Mixtral of two experts that start as its FFN, B2 T512; all frozen but expert 1
and the router. bf16 means autocast: f32 weights, bf16 products.
"""
import sys
import time

import torch

import player

LEARNING_RATE = 1e-4


def trainer(model, parameters, bf16, vocabulary, batch, window):
    """A function that runs one step and returns tokens a second."""
    ids = torch.randint(vocabulary, (batch, window),
                        generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE,
                                  betas=(0.9, 0.95), fused=True)

    def step():
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return ids.numel() / (time.perf_counter() - start)

    return step


def dense(bf16):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=8, intermediate_size=1376,
        max_position_embeddings=256, tie_word_embeddings=False)
    model = LlamaForCausalLM(config).train()
    parameters = list(model.parameters())
    step = trainer(torch.compile(model), parameters, bf16, 8192, 8, 256)
    step()  # compiles
    return step


def mixtral_of_two(folder):
    """The base's FFN twice, beside its attention and embeddings."""
    from transformers import (AutoModelForCausalLM, MixtralConfig,
                              MixtralForCausalLM)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    c = base.config
    config = MixtralConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        head_dim=c.hidden_size // c.num_attention_heads,
        intermediate_size=c.intermediate_size,
        rms_norm_eps=c.rms_norm_eps, rope_parameters=c.rope_parameters,
        max_position_embeddings=c.max_position_embeddings,
        tie_word_embeddings=c.tie_word_embeddings, num_local_experts=2,
        num_experts_per_tok=2, output_router_logits=False,
        sliding_window=None)
    model = MixtralForCausalLM(config).float().train()
    state, own = base.state_dict(), model.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(state[name])
        for layer, block in enumerate(model.model.layers):
            p = f"model.layers.{layer}.mlp."
            both = torch.cat([state[p + "gate_proj.weight"],
                              state[p + "up_proj.weight"]])
            for expert in range(2):
                block.mlp.experts.gate_up_proj[expert].copy_(both)
                block.mlp.experts.down_proj[expert].copy_(
                    state[p + "down_proj.weight"])
    return model


def owner(folder, bf16):
    model = mixtral_of_two(folder)
    trained = []
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            # transformers keeps a layer's experts in one tensor: expert 0
            # stays as it is by a gradient of zero.
            def own_only(gradient):
                gradient[0].zero_()
                return gradient
            parameter.register_hook(own_only)
        elif ".gate." not in name:
            parameter.requires_grad_(False)
            continue
        trained.append(parameter)
    step = trainer(model, trained, bf16, model.config.vocab_size, 2, 512)
    rates = {}
    for way in ("eager", "grouped_mm"):  # its loops over experts: the faster
        try:
            model.set_experts_implementation(way)
            step()
            rates[way] = step()
        except Exception as error:
            print(f"[pytorch] experts by {way}: {error}", file=sys.stderr)
    model.set_experts_implementation(max(rates, key=rates.get))
    return step


def main():
    torch.set_num_threads(player.THREADS)
    ready = {}

    def task(name, make):
        def run():
            if name not in ready:
                ready[name] = make()
            return ready[name]()
        return run

    folder = sys.argv[1]
    player.play({name: task(name, make) for name, make in {
        "dense_f32": lambda: dense(False),
        "dense_bf16": lambda: dense(True),
        "owner_f32": lambda: owner(folder, False),
        "owner_bf16": lambda: owner(folder, True),
    }.items()})


if __name__ == "__main__":
    main()
