# SPDX-License-Identifier: Apache-2.0
"""transformers' side of the encoding rows, in documents a second: the vectors
of 256 documents of about 200 tokens, mean pooled, in batches of documents
sorted by length so that little is padded. The same ids as encode_bench.cc.

  encode_transformers.py MODEL_DIR

Tasks: f32, bf16 (the weights' dtype); f32_collection, bf16_collection: lengths
of real sets. A task tries batches of 8, 16, 32 and 64 documents when it loads
and keeps the fastest.
"""
import sys
import time

import torch

import player

DOCUMENTS = 256


COLLECTION = (43, 67, 90, 116, 141, 167, 195, 221, 248) + 7 * (256,)


def even_length(document):
    return 150 + document * 37 % 101


def collection_length(document):
    return COLLECTION[document * 7 % 16]


def encoder(folder, dtype, length_of):
    from transformers import AutoModel
    torch.set_num_threads(player.THREADS)
    model = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    vocabulary = model.config.vocab_size
    documents = [[player.token_at(d, t, vocabulary)
                  for t in range(length_of(d))] for d in range(DOCUMENTS)]
    order = sorted(range(DOCUMENTS), key=lambda d: -len(documents[d]))

    @torch.inference_mode()
    def run(size):
        start = time.perf_counter()
        out = torch.empty(DOCUMENTS, model.config.hidden_size)
        for first in range(0, DOCUMENTS, size):
            chosen = order[first:first + size]
            longest = len(documents[chosen[0]])
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)
            mask = torch.zeros(len(chosen), longest, dtype=torch.long)
            for row, d in enumerate(chosen):
                n = len(documents[d])
                ids[row, :n] = torch.tensor(documents[d])
                mask[row, :n] = 1
            hidden = model(input_ids=ids,
                           attention_mask=mask).last_hidden_state.float()
            weight = mask.unsqueeze(-1).float()
            out[chosen] = (hidden * weight).sum(1) / weight.sum(1)
        return DOCUMENTS / (time.perf_counter() - start)

    run(32)
    best = max((8, 16, 32, 64), key=run)
    return lambda: run(best)


def main():
    folder = sys.argv[1]
    loaded = {}

    def task(name, dtype, length_of):
        def once():
            if name not in loaded:
                loaded[name] = encoder(folder, dtype, length_of)
            return loaded[name]()
        return once

    player.play({
        name + end: task(name + end, dtype, length_of)
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16))
        for end, length_of in (("", even_length),
                               ("_collection", collection_length))})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
