#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two fine-tuned checkpoints of transformers through Motet and back.

No part of the build or of ctest: it needs a Python environment with torch,
transformers and safetensors, and for --vllm another one with vLLM.

    PYTHON tests/peers/finetuned.py BIN_DIR MODEL TEXT_DIR OUT
        [--vllm PYTHON] [--methods merge btx] [--steps N] [--tokens N]

BIN_DIR holds motet, motet-node and motet-registry; MODEL is SmolLM2-135M (or
another Llama) in Hugging Face layout; TEXT_DIR/law and /maths hold train.jsonl.
Fine-tunes the model twice, makes a federation in OUT, imports base and
branches, composes them by each method, exports, and compares the greedy tokens
of `motet generate`, of transformers on the export (f32) and of vLLM on it
(f32), prompt by prompt. Equal tokens everywhere: exit code 0.
"""
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

DOMAINS = ("law", "maths")
PROMPTS = ("The capital of France is",
           "For the purposes of this subchapter, the term",
           "Let x be a real number such that",
           "def fibonacci(n):",
           "Once upon a time, in a small village,")
RECIPES = {
    "merge": ('[merge]\nkind = "linear"\n', "LlamaForCausalLM"),
    # Imported checkpoints come without statistics, so their rows are drawn.
    "btx": ('[router]\nkind = "topk"\nk = 2\n[btx]\nrows = "random"\n',
            "MixtralForCausalLM"),
}
VLLM = r"""
import json, sys
from vllm import LLM, SamplingParams, TokensPrompt
folder, prompts, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
llm = LLM(model=folder, dtype="float32", max_model_len=512, max_num_seqs=1,
          enforce_eager=True, enable_prefix_caching=False, seed=0)
how = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
out = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], how)
print("TOKENS", json.dumps([list(o.outputs[0].token_ids) for o in out]))
"""


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run(*command, env=None):
    done = subprocess.run([str(c) for c in command], capture_output=True,
                          text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-4000:]}")
    return done.stdout


def texts(path, limit):
    with open(path) as lines:
        return [json.loads(line)["text"] for _, line in zip(range(limit), lines)]


def finetune(model_dir, path, out, steps, seed):
    """Plain AdamW steps over windows of the text; saved by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir,
                                                 dtype=torch.float32)
    ids = tokenizer("\n\n".join(texts(path, 200)))["input_ids"]
    window, batch = 64, 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    model.train()
    first = last = None
    for step in range(steps):
        at = torch.randint(0, len(ids) - window, (batch,)).tolist()
        rows = torch.tensor([ids[a:a + window] for a in at])
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = float(loss.detach())
        first = last if first is None else first
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    say(f"fine-tuned on {path}: {steps} steps, loss {first:.3f} -> {last:.3f}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Federation:
    """A coordinator, a registry and two owners' keys, all on this machine."""

    def __init__(self, bin_dir, out):
        self.bin, self.out = bin_dir, out
        self.home = os.path.join(out, "federation")
        self.env = dict(os.environ, MOTET_FEDERATION=self.home,
                        OMP_WAIT_POLICY="passive")
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        self.registry = None

    def motet(self, *words):
        return run(os.path.join(self.bin, "motet"), *words, env=self.env)

    def start(self):
        registry, coordinator = self.addresses
        self.motet("init", "demo", "--registry-address", registry,
                   "--coordinator-address", coordinator)
        self.log = open(os.path.join(self.out, "registry.log"), "w")
        self.registry = subprocess.Popen(
            [os.path.join(self.bin, "motet-registry"), "run", "--config",
             os.path.join(self.home, "registry", "registry.toml")],
            stdout=self.log, stderr=self.log, env=self.env)
        host, port = registry.split(":")
        for _ in range(300):
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("the registry does not listen; see registry.log")

    def join(self, owner):
        node = os.path.join(self.out, "nodes", owner)
        os.makedirs(os.path.dirname(node), exist_ok=True)
        registry, coordinator = self.addresses
        program = os.path.join(self.bin, "motet-node")
        name = owner + ".example"
        text = run(program, "init", "--federation", "demo", "--owner", name,
                   "--node", "node1", "--dir", node, "--coordinator",
                   coordinator, "--registry", registry, env=self.env)
        at = text.index("SHA256:")
        self.motet("member", "approve", node + "/request.pem",
                   "--fingerprint", text[at:at + 71])
        run(program, "join", "--dir", node, "--certificate",
            f"{self.home}/members/{name}/node1.pem", "--authority",
            f"{self.home}/ca/ca.pem", env=self.env)
        return node

    def end(self):
        if self.registry is not None:
            self.registry.send_signal(signal.SIGTERM)
            self.registry.wait(30)


def greedy(model, ids, tokens):
    import torch
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), do_sample=False,
                             max_new_tokens=tokens, min_new_tokens=tokens,
                             pad_token_id=0)
    return out[0, len(ids):].tolist()


def compare(args, federation, name, method):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    recipe, architecture = RECIPES[method]
    path = os.path.join(args.out, f"{name}.toml")
    experts = ", ".join(f'"{d}.example/tuned"' for d in DOMAINS)
    with open(path, "w") as f:
        f.write(f'name = "{name}"\nmethod = "{method}"\n'
                f"experts = [{experts}]\n{recipe}")
    print(federation.motet("compose", "apply", path).strip())
    folder = os.path.join(args.out, "export-" + name)
    report = json.loads(federation.motet("-o", "json", "compose", "export",
                                         name, "--out", folder))
    say(f"exported as {report['architecture']}")
    good = report["architecture"] == architecture
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    good = good and type(model).__name__ == architecture
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS]
    theirs = [greedy(model, ids, args.tokens) for ids in prompts]
    rows = {"transformers": [tokenizer.decode(t) for t in theirs]}
    rows["motet"] = [
        json.loads(federation.motet(
            "-o", "json", "generate", name, "--prompt", p, "--max-tokens",
            args.tokens, "--temperature", 0))["text"]
        for p in PROMPTS]
    if args.vllm:
        env = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="2",
                   VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1")
        out = run(args.vllm, "-c", VLLM, folder, json.dumps(prompts),
                  args.tokens, env=env)
        line = [x for x in out.splitlines() if x.startswith("TOKENS ")][-1]
        rows["vllm"] = [tokenizer.decode(t) for t in json.loads(line[7:])]
    for i, prompt in enumerate(PROMPTS):
        want = rows["motet"][i]
        for who, texts_ in rows.items():
            # Motet stops where a text ends; the others were told to go on.
            same = texts_[i] == want or (len(want) > 0 and
                                         texts_[i].startswith(want + "<|"))
            good = good and same
            print(f"  {'equal ' if same else 'DIFFER'} {who:13s} {prompt!r}"
                  + ("" if same else f"\n    {texts_[i]!r}\n    {want!r}"))
        print(f"    {want!r}")
    say(f"{name}: {'equal everywhere' if good else 'FAILED'}")
    return good


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for word in ("bin", "model", "text", "out"):
        parser.add_argument(word)
    parser.add_argument("--vllm")
    parser.add_argument("--methods", nargs="+", default=["merge", "btx"],
                        choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    args.bin, args.out = os.path.abspath(args.bin), os.path.abspath(args.out)
    os.makedirs(args.out, exist_ok=True)
    for seed, domain in enumerate(DOMAINS):
        folder = os.path.join(args.out, "tuned-" + domain)
        if not os.path.exists(os.path.join(folder, "config.json")):
            finetune(args.model, os.path.join(args.text, domain,
                                              "train.jsonl"),
                     folder, args.steps, seed)
    for made in ["federation", "nodes", "public"] + [
            "export-by-" + m for m in args.methods]:  # of an earlier run
        shutil.rmtree(os.path.join(args.out, made), ignore_errors=True)
    federation = Federation(args.bin, args.out)
    good = True
    try:
        federation.start()
        public = os.path.join(args.out, "public")
        federation.motet("corpus", "import",
                         os.path.join(args.text, "cli_docs", "train.jsonl"),
                         "--out", public)
        federation.motet("base", "import", args.model, "--data",
                         public + "/train.jsonl", "--licence", "Apache-2.0",
                         "--anchor-tokens", 1024, "--sequence-tokens", 256,
                         "--public-bytes", 65536)
        federation.motet("base", "publish")
        for domain in DOMAINS:
            node = federation.join(domain)
            print(federation.motet(
                "expert", "import", os.path.join(args.out, "tuned-" + domain),
                "--as", f"{domain}.example/tuned", "--node", node,
                "--licence", "Apache-2.0", "--domain", domain).strip())
        for method in args.methods:
            good = compare(args, federation, "by-" + method, method) and good
    finally:
        federation.end()
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
