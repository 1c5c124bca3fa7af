"""One step of training a small model: the definitions' rules and the fast session in NumPy, beside PyTorch on the same cores.

    python benchmarks/training_step.py --torch-python venv/bin/python [--model gpt2 | seq2seq] [--rows 16] [--length 128] [--rounds 15] [--threads 2]
                                       [--rules] [--json]

The models: 4 layers, 192 wide, 6 heads, float32. "gpt2" has 4,800 tokens, its head tied. "seq2seq" is a BERT with a masked-LM head and copy tags
(SPACES), 8,000 tokens; its rows are source and target, a fifth of `--length` the target, no two quite equal in length, sorted as
`refimpl.learning.seq2seq.PairCorpus` does. A step: loss, gradients, clipping to a norm of 1, AdamW; no dropout. Each program is a process of its own,
told when to take a step; a round has one step of each, in turn, so that a slow moment of the machine falls on all of them. Reported are medians over
the rounds, and the median of the ratios within rounds. All start from the same parameters and see the same tokens, and their losses are compared:
they do the same work.

PyTorch (torch==2.13.0+cpu, numpy==2.4.6 in the other environment) is the recipe's own program, `training/tang/train.py`, or `torch_seq2seq.py`: both
hand-written, with scaled_dot_product_attention and the fused AdamW, `--threads` threads of OpenMP. The session computes a step in `--threads` parts
with one thread of OpenBLAS each; the rules have `--threads` threads of OpenBLAS.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {"vocab_size": 4800, "n_positions": 128, "n_embd": 192, "n_layer": 4, "n_head": 6}
PARTS = {
    "attention_norm": "ln_1",
    "query_key_value": "c_attn",
    "attention_output": "attn_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward_in": "c_fc",
    "feed_forward_out": "mlp_proj",
}


BERT = {"vocab_size": 8000, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "activation": "tanh"}


def pairs(rows: int, length: int) -> Any:
    """Sources and targets, of which the latter are a span of the former and as many other tokens."""
    from refimpl.learning.seq2seq import PairCorpus

    rng, found = np.random.default_rng(1), []
    for _ in range(8 * rows):
        target = max(4, int(length * rng.uniform(0.15, 0.25)))
        source = rng.integers(3, BERT["vocab_size"], int(length * rng.uniform(0.9, 1)) - target).tolist()
        others = rng.integers(3, BERT["vocab_size"], target - target // 2 - 1).tolist()
        found.append((source, [1, *source[: target // 2], *others]))
    return PairCorpus(found, length=length, rows=rows, masking=0.0, seed=1)


def tokens(rows: int, length: int) -> Any:
    return np.random.default_rng(1).integers(0, SHAPE["vocab_size"], (rows, length + 1))


def serve_torch_seq2seq(given: argparse.Namespace) -> Any:
    import torch
    import torch_seq2seq

    torch.set_num_threads(given.threads)
    arrays = dict(np.load(given.weights))
    batch = tuple(arrays.pop(f"batch.{name}") for name in ("ids", "said", "segments", "labels", "real"))
    return torch_seq2seq.Step(arrays, batch, BERT["num_hidden_layers"], BERT["num_attention_heads"])


def serve_torch(given: argparse.Namespace) -> Any:
    sys.path.insert(0, str(ROOT / "training" / "tang"))
    import torch
    import train

    torch.set_num_threads(given.threads)
    names = {
        "vocab": "vocab_size",
        "positions": "n_positions",
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
    }
    model = train.Model(**{theirs: SHAPE[ours] for theirs, ours in names.items()}, dropout=0.0)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in np.load(given.weights).items()})
    groups = [[p for p in model.parameters() if p.ndim == 2], [p for p in model.parameters() if p.ndim != 2]]
    decayed = [{"params": p, "weight_decay": by} for p, by in zip(groups, (0.1, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(decayed, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    ids = torch.from_numpy(tokens(given.rows, given.length))

    def step() -> float:
        logits = model(ids[:, :-1].flatten(), [(given.rows, given.length)])
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def of_gpt2(given: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The gradient, the corpus, and the first parameters."""
    from refimpl import gpt2, learning

    config = gpt2.GPT2Config(**SHAPE)
    session = learning.Session(config, threads=given.threads)
    corpus = learning.Corpus(list(tokens(given.rows, given.length)), length=given.length, rows=given.rows)
    gradient = session if given.serve == "session" else learning.GPT2Gradient(config)
    return gradient, corpus, learning.initial_gpt2(config)


def of_seq2seq(given: argparse.Namespace) -> tuple[Any, Any, Any]:
    from refimpl.bert import BertConfig
    from refimpl.learning import UniLMSession
    from refimpl.learning.seq2seq import Seq2SeqGradient
    from refimpl.spaces.seq2seq import Seq2SeqConfig, initial_seq2seq

    config = Seq2SeqConfig(BertConfig(**BERT, max_position_embeddings=given.length), 1, 2)
    gradient = Seq2SeqGradient(config) if given.serve == "rules" else UniLMSession(config, threads=given.threads)
    return gradient, pairs(given.rows, given.length), initial_seq2seq(config)


def serve_refimpl(given: argparse.Namespace) -> Any:
    from refimpl import learning

    gradient, corpus, first = (of_gpt2 if given.model == "gpt2" else of_seq2seq)(given)
    training = learning.Training(
        gradient, corpus, learning.AdamW((0.9, 0.95), 1e-8, 0.1), learning.Schedule(1e-3), clip=1.0
    )
    state = training.start(first)

    def step() -> float:
        nonlocal state
        state, taken = training.step(state._replace(epoch=0, position=0))
        return taken.loss

    return step


def serve(given: argparse.Namespace) -> None:
    torches = {"gpt2": serve_torch, "seq2seq": serve_torch_seq2seq}
    step = (torches[given.model] if given.serve == "torch" else serve_refimpl)(given)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step()
        print(time.perf_counter() - wall, time.process_time() - cpu, loss, flush=True)


def write_seq2seq(path: Path, given: argparse.Namespace) -> int:
    """The first parameters and the batch; how many tokens it has."""
    _, corpus, first = of_seq2seq(given)
    (batch,) = corpus.step(0, 0)
    np.savez(path, **first.named(), **{f"batch.{name}": part for name, part in batch._asdict().items()})
    return int(batch.real.sum())


def write_gpt2(path: Path, given: argparse.Namespace) -> int:
    """The first parameters under the names of training/tang/train.py, whose linear maps are (out, in); how many tokens a step has."""
    from refimpl import gpt2, learning

    found = {}
    for name, array in learning.initial_gpt2(gpt2.GPT2Config(**SHAPE)).named().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            linear = array.T if parts[3] == "weight" else array
            found[f"blocks.{parts[1]}.{PARTS[parts[2]]}.{parts[3].replace('scale', 'weight')}"] = linear
        else:
            whole = {"token_embedding": "wte.weight", "position_embedding": "wpe.weight"}
            found[whole.get(name) or name.replace("final_norm", "ln_f").replace("scale", "weight")] = array
    np.savez(path, **{name: np.ascontiguousarray(a) for name, a in found.items()})
    return int(given.rows * given.length)


def start(kind: str, given: argparse.Namespace, weights: Path) -> subprocess.Popen[str]:
    blas = 1 if kind == "session" else given.threads
    threads = {"OPENBLAS_NUM_THREADS": str(blas), "OMP_NUM_THREADS": str(given.threads)}
    python = given.torch_python if kind == "torch" else sys.executable
    options = ["--rows", given.rows, "--length", given.length, "--threads", given.threads]
    options += ["--weights", weights, "--model", given.model]
    return subprocess.Popen(
        [python, __file__, "--serve", kind, *map(str, options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | threads | ({} if kind == "torch" else {"PYTHONPATH": str(ROOT)}),
    )


def ask(process: subprocess.Popen[str]) -> tuple[float, ...]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    return tuple(float(word) for word in process.stdout.readline().split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter of an environment with PyTorch")
    parser.add_argument("--model", choices=("gpt2", "seq2seq"), default="gpt2")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rules", action="store_true", help="the definitions' rules too, which take seconds a step")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=("torch", "session", "rules"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given)
        return
    kinds = ["torch", "session", "rules"] if given.rules else ["torch", "session"]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        count = (write_gpt2 if given.model == "gpt2" else write_seq2seq)(weights, given)
        processes = {kind: start(kind, given, weights) for kind in kinds}
        warm = [{kind: ask(process) for kind, process in processes.items()} for _ in range(2)]
        rounds = [{kind: ask(process) for kind, process in processes.items()} for _ in range(given.rounds)]
        for process in processes.values():
            process.communicate()
    rows = {}
    for kind in kinds:
        wall, cpu = ([each[kind][i] for each in rounds] for i in range(2))
        rows[kind] = {"seconds": statistics.median(wall), "least": min(wall), "cpu_seconds": statistics.median(cpu)}
        rows[kind]["tokens a second"] = count / rows[kind]["seconds"]
        rows[kind]["torch / this"] = statistics.median(each["torch"][0] / each[kind][0] for each in rounds)
        rows[kind]["loss apart"] = max(abs(each["torch"][2] / each[kind][2] - 1) for each in warm + rounds)
    result = {
        "model": given.model,
        "rows": given.rows,
        "length": given.length,
        "threads": given.threads,
        "cpus": os.cpu_count(),
        "steps": rows,
    }
    if given.json:
        print(json.dumps(result, indent=1))
        return
    for kind, row in rows.items():
        print(f"{kind:<8}", "  ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
