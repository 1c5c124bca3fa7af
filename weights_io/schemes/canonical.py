"""The project's own names of parameters, one table for each architecture: name -> shape in the letters of `docs/conventions.md`.

`{i}` is the layer, counted from 0; s is the number of segments. In the extractor e is the width of the vectors that are read, w that of the layers,
and k the number of taps. Linear weights are (in, out). The projections of query, key and value are one tensor, columns Q, then K, then V, in every
architecture: one product, cut in the same way in one place, whichever family it is; the schemes join and cut what frameworks keep apart. A group in
`OPTIONAL` is there as a whole or not at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURES", "OPTIONAL", "TIED", "misfits"]

Table = dict[str, tuple[str, ...]]

EMBEDDINGS: Table = {"token_embedding": ("v", "d"), "position_embedding": ("p", "d")}
SEGMENTS: Table = {"segment_embedding": ("s", "d")}
EMBEDDING_NORM: Table = {"embedding_norm.scale": ("d",), "embedding_norm.bias": ("d",)}
HEAD: Table = {"output_embedding": ("v", "d")}  # only where it is not the token embedding

BLOCK: Table = {
    "blocks.{i}.query_key_value.weight": ("d", "3d"),
    "blocks.{i}.query_key_value.bias": ("3d",),
    "blocks.{i}.attention_output.weight": ("d", "d"),
    "blocks.{i}.attention_output.bias": ("d",),
    "blocks.{i}.feed_forward_norm.scale": ("d",),
    "blocks.{i}.feed_forward_norm.bias": ("d",),
    "blocks.{i}.feed_forward_in.weight": ("d", "i"),
    "blocks.{i}.feed_forward_in.bias": ("i",),
    "blocks.{i}.feed_forward_out.weight": ("i", "d"),
    "blocks.{i}.feed_forward_out.bias": ("d",),
}
ATTENTION_NORM: Table = {"blocks.{i}.attention_norm.scale": ("d",), "blocks.{i}.attention_norm.bias": ("d",)}
OUTPUT_NORM: Table = {"blocks.{i}.output_norm.scale": ("d",), "blocks.{i}.output_norm.bias": ("d",)}

BERT_HEADS: Table = {
    "pooler.weight": ("d", "d"),
    "pooler.bias": ("d",),
    "masked_lm.transform.weight": ("d", "d"),
    "masked_lm.transform.bias": ("d",),
    "masked_lm.norm.scale": ("d",),
    "masked_lm.norm.bias": ("d",),
    "masked_lm.bias": ("v",),
    "next_sentence.weight": ("d", "2"),
    "next_sentence.bias": ("2",),
}

EXTRACTOR: Table = {
    "projection": ("e", "w"),
    "blocks.{i}.kernel": ("k", "w", "2w"),
    "blocks.{i}.bias": ("2w",),
    "blocks.{i}.norm.scale": ("w",),
    "blocks.{i}.norm.bias": ("w",),
    "blocks.{i}.alpha": ("1",),
    "head.weight": ("w", "1"),
    "head.bias": ("1",),
}

ARCHITECTURES: dict[str, Table] = {
    # x + Attention(LN(x)), x + FeedForward(LN(x)), and a norm after the last layer
    "gpt2": EMBEDDINGS | ATTENTION_NORM | BLOCK | {"final_norm.scale": ("d",), "final_norm.bias": ("d",)} | HEAD,
    # LN(x + Attention(x)), LN(x + FeedForward(x)); the head is the token embedding
    "gpt": EMBEDDINGS | SEGMENTS | BLOCK | ATTENTION_NORM,
    # y = x + Attention(x), LN₁(y + FeedForward(LN₀(y))): feed_forward_norm is LN₀, output_norm LN₁
    "gpt2_ml": EMBEDDINGS | EMBEDDING_NORM | BLOCK | OUTPUT_NORM,
    # a norm after the embedding, then the layers of "gpt"; RoBERTa counts its positions from 2
    "bert": EMBEDDINGS | SEGMENTS | EMBEDDING_NORM | BLOCK | ATTENTION_NORM | BERT_HEADS | HEAD,
    # as "bert", with fixed relative positions that no file keeps
    "nezha": {"token_embedding": ("v", "d")} | SEGMENTS | EMBEDDING_NORM | BLOCK | ATTENTION_NORM | BERT_HEADS | HEAD,
    # x + α LN(GLU(convolution(x))), between two products: `refimpl.spaces.extractor`
    "extractor": EXTRACTOR,
}
OPTIONAL: frozenset[str] = frozenset({"segment_embedding", "pooler", "masked_lm", "next_sentence", "output_embedding"})
FIRST = ("token_embedding", "projection")  # what shows the widths of the others
TIED: dict[str, str] = {"output_embedding": "token_embedding"}  # may be left out where it equals


def _lengths(shape: tuple[int, ...], letters: tuple[str, ...], sizes: dict[str, int]) -> list[int | None]:
    """What each axis has to be; a letter that stands alone and is met for the first time is what the axis is."""
    if len(shape) != len(letters):
        return [None]
    for length, letter in zip(shape, letters, strict=True):
        if letter.isalpha():
            sizes.setdefault(letter, length)
    factors = [re.fullmatch(r"(\d*)([a-z]?)", letter) for letter in letters]
    return [int(found[1] or 1) * (sizes.get(found[2]) or 0 if found[2] else 1) for found in factors if found]


def misfits(shapes: Mapping[str, tuple[int, ...]], architecture: str) -> list[str]:
    """One line for every tensor whose shape is not that of the table, for one meaning of the letters throughout.

    v and d are those of the token embedding, e and w the projection's; every other letter is what the first tensor with it shows. Names without a
    place are not looked at.
    """
    table, sizes, lines = ARCHITECTURES[architecture], dict[str, int](), []
    for name in sorted(shapes, key=lambda name: name not in FIRST):
        letters = table.get(re.sub(r"^blocks\.\d+\.", "blocks.{i}.", name))
        if letters is not None and (wanted := _lengths(shapes[name], letters, sizes)) != list(shapes[name]):
            means = "" if None in wanted else f" = {tuple(wanted)}"
            lines.append(f"wrong shape: {name} expected ({', '.join(letters)}){means}, got {shapes[name]}")
    return lines
