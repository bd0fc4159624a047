# SPDX-License-Identifier: Apache-2.0
"""The peers of the load row: a cold process for every round, in seconds until
the first token.

  load.py llama_cpp MODEL.gguf PROMPT       counts from before the model is
      opened: starting Python and importing its binding is not llama.cpp's
  load.py transformers FOLDER PROMPT        counts the whole process, as its
      users wait for it

Task: first_token. With --once before the rest it is the cold process itself
and prints {"seconds", "token"}.
"""
import json
import os
import subprocess
import sys
import time

import player


def llama_cpp(path, prompt):
    import llama_cpp as l
    quiet = l.llama_log_callback(lambda level, text, data: None)
    l.llama_log_set(quiet, None)
    start = time.perf_counter()
    parameters = l.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = l.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    settings = l.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = player.THREADS
    context = l.llama_init_from_model(model, settings)
    vocabulary = l.llama_model_get_vocab(model)
    text = prompt.encode()
    ids = (l.llama_token * 512)()
    count = l.llama_tokenize(vocabulary, text, len(text), ids, 512, False,
                             False)
    if l.llama_decode(context, l.llama_batch_get_one(ids, count)) != 0:
        raise RuntimeError("llama_decode failed")
    token = l.llama_sampler_sample(l.llama_sampler_init_greedy(), context, -1)
    return {"seconds": time.perf_counter() - start, "token": token}


def transformers(folder, prompt):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(player.THREADS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        token = model(ids).logits[0, -1].argmax().item()
    return {"token": token}


def once(kind, path, prompt):
    print(json.dumps({"llama_cpp": llama_cpp,
                      "transformers": transformers}[kind](path, prompt)))
    sys.stdout.flush()
    os._exit(0)  # nobody waits for the interpreter to clean up


def main():
    if sys.argv[1] == "--once":
        once(*sys.argv[2:])

    def first_token():
        start = time.perf_counter()
        child = subprocess.run([sys.executable, __file__, "--once",
                                *sys.argv[1:]], capture_output=True,
                               text=True)
        seconds = time.perf_counter() - start
        if child.returncode != 0:
            raise RuntimeError(child.stderr.strip().splitlines()[-1])
        answer = json.loads(child.stdout.strip().splitlines()[-1])
        return answer.get("seconds", seconds)

    player.play({"first_token": first_token})


if __name__ == "__main__":
    main()
