"""A sequence-to-sequence BERT with copy tags in PyTorch, and one step of its training: what `benchmarks/training_step.py` compares with.

Written as one would: layers of torch.nn.functional, scaled_dot_product_attention with the mask of source and target, logits of the trained places
alone, torch.topk, the fused AdamW. Run in an environment with PyTorch, which needs nothing of this project.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class Model(torch.nn.Module):
    """Parameters under the names of `Seq2SeqWeights.named`, linear maps (in, out); batches as `PairBatch`."""

    def __init__(self, arrays: dict[str, Any], layers: int, heads: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.layers, self.heads, self.eps = layers, heads, eps
        named = {name.replace(".", "/"): torch.nn.Parameter(torch.from_numpy(a)) for name, a in arrays.items()}
        self.named = torch.nn.ParameterDict(named)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.named[f"{name}/bias"], x.flatten(0, -2), self.named[f"{name}/weight"]).view(
            *x.shape[:-1], -1
        )

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.named[f"{name}/scale"], self.named[f"{name}/bias"], self.eps)

    def forward(self, ids: torch.Tensor, segments: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """LN(GELU(W x + b)), (b, n, d)."""
        b, n = ids.shape
        tables = (self.named[f"{name}_embedding"] for name in ("token", "segment", "position"))
        token, segment, position = tables
        x = self.norm("embedding_norm", token[ids] + segment[segments] + position[:n])
        order = segments.cumsum(1)
        seen = ((order[:, None, :] <= order[:, :, None]) & real[:, None, :])[:, None]
        for i in range(self.layers):
            at = f"blocks/{i}"
            q, k, v = self.linear(f"{at}/query_key_value", x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(b, n, -1)
            x = self.norm(f"{at}/attention_norm", x + self.linear(f"{at}/attention_output", mixed))
            inner = functional.gelu(self.linear(f"{at}/feed_forward_in", x), approximate="tanh")
            x = self.norm(f"{at}/feed_forward_norm", x + self.linear(f"{at}/feed_forward_out", inner))
        return self.norm("masked_lm/norm", functional.gelu(self.linear("masked_lm/transform", x), approximate="tanh"))

    def loss(self, batch: tuple[torch.Tensor, ...], k: int = 10, weight: float = 2.0) -> torch.Tensor:
        """Sequence loss over the k largest + 2 · copy loss."""
        ids, said, segments, labels, real = batch
        words = self(ids, segments, real)[:, :-1]
        trained = (segments[:, :-1] * segments[:, 1:]) > 0
        tagged = segments.flip(1).cumsum(1).flip(1)[:, 1:] > 0
        logits = torch.addmm(self.named["masked_lm/bias"], words[trained], self.named["token_embedding"].T)
        chosen = logits.gather(1, said[:, 1:][trained][:, None])[:, 0]
        tokens = (logits.topk(k, dim=1).values.logsumexp(1) - chosen).mean()
        return tokens + weight * functional.cross_entropy(self.linear("tags", words[tagged]), labels[tagged])


class Step:
    """Loss, gradients, clipping to a norm of 1, AdamW, of one batch."""

    def __init__(self, arrays: dict[str, Any], batch: tuple[Any, ...], layers: int, heads: int) -> None:
        self.model = Model(arrays, layers, heads)
        self.batch = tuple(torch.from_numpy(part) for part in batch)
        parameters = list(self.model.parameters())
        groups = [[p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2]]
        decayed = [{"params": p, "weight_decay": by} for p, by in zip(groups, (0.1, 0.0), strict=True)]
        self.optimizer = torch.optim.AdamW(decayed, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def __call__(self) -> float:
        loss = self.model.loss(self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())
