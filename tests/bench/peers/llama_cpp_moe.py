# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's side of the serving rows, through llama-cpp-python's low-level
interface, in tokens a second. The same weights, token ids and steps as
serve_bench.cc.

  llama_cpp_moe.py MODELS_DIR      holds moe-bf16.gguf and moe-f32.gguf

Tasks: prefill_T, decode_1_T, decode_16_T; T is bf16 or f32, the file's type.
A decoding task tries the key-value cache in one piece and in one a sequence
when it loads, and keeps the faster.
"""
import os
import sys
import time

import llama_cpp as l

import player

PREFILL, CONTEXT, STEPS = 512, 112, 32


class Model:
    def __init__(self, path):
        parameters = l.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = l.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocabulary = l.llama_vocab_n_tokens(
            l.llama_model_get_vocab(self.model))

    def context(self, tokens, sequences, unified):
        parameters = l.llama_context_default_params()
        parameters.n_ctx = tokens * sequences
        parameters.n_batch = parameters.n_ubatch = PREFILL
        parameters.n_seq_max = sequences
        parameters.kv_unified = unified
        parameters.n_threads = parameters.n_threads_batch = player.THREADS
        context = l.llama_init_from_model(self.model, parameters)
        if not context:
            raise RuntimeError("llama.cpp makes no context")
        return context


def decode(context, rows):
    """rows: (id, position, sequence, whether logits are wanted)."""
    batch = l.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = logits
    start = time.perf_counter()
    status = l.llama_decode(context, batch)
    l.llama_get_logits(context)  # waits for them
    seconds = time.perf_counter() - start
    l.llama_batch_free(batch)
    if status != 0:
        raise RuntimeError(f"llama_decode: {status}")
    return seconds


def prompt(model, sequence, tokens):
    return [(player.token_at(sequence, t, model.vocabulary), t, sequence,
             t + 1 == tokens) for t in range(tokens)]


def prefill(model):
    context = model.context(PREFILL, 1, False)
    memory = l.llama_get_memory(context)

    def run():
        l.llama_memory_clear(memory, True)
        return PREFILL / decode(context, prompt(model, 0, PREFILL))
    return run


def decoder(model, sequences, unified):
    # llama.cpp rounds a sequence's room up to 256 tokens.
    context = model.context(256, sequences, unified)
    memory = l.llama_get_memory(context)
    for s in range(sequences):
        decode(context, prompt(model, s, CONTEXT))

    def run(steps=STEPS):
        seconds = 0
        for t in range(CONTEXT, CONTEXT + steps):
            seconds += decode(context, [
                (player.token_at(s, t, model.vocabulary), t, s, True)
                for s in range(sequences)])
        for s in range(sequences):
            l.llama_memory_seq_rm(memory, s, CONTEXT, -1)
        return sequences * steps / seconds
    return run


def best_decoder(model, sequences):
    if sequences == 1:
        return decoder(model, 1, False)
    ways = [decoder(model, sequences, unified) for unified in (False, True)]
    return max(ways, key=lambda run: (run(2), run(6))[1])


def main():
    folder = sys.argv[1]
    models, ready = {}, {}

    def task(name, kind, make):
        def run():
            if name not in ready:
                if kind not in models:
                    models[kind] = Model(
                        os.path.join(folder, f"moe-{kind}.gguf"))
                ready[name] = make(models[kind])
            return ready[name]()
        return run

    # Its notes on every loaded tensor are nobody's interest.
    quiet = l.llama_log_callback(lambda level, text, data: None)
    l.llama_log_set(quiet, None)
    tasks = {}
    for kind in ("bf16", "f32"):
        for name, make in {
            "prefill": prefill,
            "decode_1": lambda model: best_decoder(model, 1),
            "decode_16": lambda model: best_decoder(model, 16),
        }.items():
            tasks[f"{name}_{kind}"] = task(f"{name}_{kind}", kind, make)
    player.play(tasks)


if __name__ == "__main__":
    main()
