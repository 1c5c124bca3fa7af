"""Train the character-level GPT-2 on the prepared Tang poems (CPU, float32, deterministic order, resumable)."""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EOT, UNK, IGNORE = 0, 1, -100


class Block(nn.Module):
    """One pre-LN GPT-2 block over a flat batch: tokens of all poems in one row, attention per group of equal length."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        qkv, out = self.c_attn(x), []
        for part, (rows, length) in zip(qkv.split([r * n for r, n in groups]), groups, strict=True):
            q, k, v = part.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            out.append(mixed.transpose(1, 2).reshape(rows * length, -1))
        return self.attn_proj(torch.cat(out))

    def forward(self, x: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        x = x + F.dropout(self.attend(self.ln_1(x), groups), self.dropout, self.training)
        hidden = F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        return x + F.dropout(self.mlp_proj(hidden), self.dropout, self.training)


class Model(nn.Module):
    def __init__(self, vocab: int, positions: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers))
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        places = torch.cat([torch.arange(length).repeat(rows) for rows, length in groups])
        x = F.dropout(self.wte(ids) + self.wpe(places), self.dropout, self.training)
        for block in self.blocks:
            x = block(x, groups)
        return self.ln_f(x) @ self.wte.weight.T


def load_poems(path: Path, vocab: dict[str, int]) -> list[list[int]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[EOT, *(vocab.get(char, UNK) for char in json.loads(line)), EOT] for line in lines]


def make_groups(poems: list[list[int]], size: int, shuffle: random.Random | None) -> list[Tensor]:
    """Tensors of up to `size` poems of one length, [rows, length + 1], nothing padded."""
    buckets: dict[int, list[list[int]]] = {}
    for poem in poems:
        buckets.setdefault(len(poem), []).append(poem)
    groups = []
    for _, bucket in sorted(buckets.items()):
        if shuffle:
            shuffle.shuffle(bucket)
        groups += [torch.tensor(bucket[start : start + size]) for start in range(0, len(bucket), size)]
    if shuffle:
        shuffle.shuffle(groups)
    return groups


def make_batches(groups: list[Tensor], tokens: int) -> list[list[Tensor]]:
    """Join groups, in order, into steps of at least `tokens` targets."""
    batches, current, count = [], [], 0
    for group in groups:
        current.append(group)
        count += group[:, 1:].numel()
        if count >= tokens:
            batches.append(current)
            current, count = [], 0
    return batches


def loss_of(model: nn.Module, batch: list[Tensor], reduction: str = "mean") -> tuple[Tensor, int]:
    ids = torch.cat([group[:, :-1].flatten() for group in batch])
    targets = torch.cat([group[:, 1:].flatten() for group in batch])
    targets = targets.masked_fill(targets == UNK, IGNORE)
    shapes = [(group.shape[0], group.shape[1] - 1) for group in batch]
    loss = F.cross_entropy(model(ids, shapes), targets, ignore_index=IGNORE, reduction=reduction)
    return loss, int((targets != IGNORE).sum())


@torch.no_grad()
def evaluate(model: nn.Module, poems: list[list[int]]) -> float:
    model.eval()
    total, count = 0.0, 0
    for group in make_groups(poems, 32, None):
        loss, targets = loss_of(model, [group], "sum")
        total, count = total + float(loss), count + targets
    model.train()
    return total / count


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder written by prepare.py; checkpoints go here")
    parser.add_argument("--log", type=Path, default=Path(__file__).with_name("loss.csv"))
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=2048, help="least number of targets in a step")
    parser.add_argument("--group", type=int, default=8, help="poems of one length kept together")
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations and checkpoints")
    parser.add_argument("--limit", type=int, default=0, help="stop the plan early, after this many steps")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    vocab = json.loads((args.work / "vocab.json").read_text(encoding="utf-8"))
    train, test = (load_poems(args.work / name, vocab) for name in ("train.jsonl", "heldout.jsonl"))
    shape = {"vocab": len(vocab), "positions": args.positions, "width": args.width}
    shape |= {"layers": args.layers, "heads": args.heads}
    model = Model(**shape, dropout=args.dropout)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    decayed = [{"params": matrices, "weight_decay": args.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(decayed, lr=args.peak, betas=(0.9, 0.95), eps=1e-8, fused=True)

    epoch_steps = len(make_batches(make_groups(train, args.group, random.Random(args.seed)), args.tokens))
    steps = int(args.epochs * epoch_steps)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {epoch_steps} steps an epoch, {steps} in all")

    checkpoint, step, spent, rows = args.work / "checkpoint.pt", 0, 0.0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        step, spent, rows = saved["step"], saved["seconds"], saved["rows"]

    start, recent, seen, epoch, batches = time.monotonic() - spent, 0.0, 0, -1, []
    while step < steps:
        if step // epoch_steps != epoch:  # each epoch's order depends on the seed and the epoch alone
            epoch = step // epoch_steps
            order = random.Random(args.seed + epoch)
            batches = make_batches(make_groups(train, args.group, order), args.tokens)
        for settings in optimizer.param_groups:
            settings["lr"] = learning_rate(step, steps, args.peak, args.warmup)
        loss, _ = loss_of(model, batches[step % epoch_steps % len(batches)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent, seen, step = recent + float(loss.detach()), seen + 1, step + 1
        if step % args.every == 0 or step == steps:
            test_loss = evaluate(model, test)
            seconds = time.monotonic() - start
            rows.append((step, round(recent / seen, 4), round(test_loss, 4), round(seconds, 1)))
            print(*rows[-1], flush=True)
            recent, seen = 0.0, 0
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
            state |= {"step": step, "seconds": seconds, "rows": rows}
            state |= {"shape": shape, "arguments": {k: v for k, v in vars(args).items() if not isinstance(v, Path)}}
            torch.save(state | {"steps": steps}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            with args.log.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("step", "train_loss", "held_out_loss", "seconds"), *rows])
        if args.limit and step >= args.limit:
            break


if __name__ == "__main__":
    main()
