"""The project's own names of parameters, one table for each architecture: name -> shape in the letters of `docs/conventions.md`.

`{i}` is the layer, counted from 0; s is the number of segments. Linear weights are (in, out). The projections of query, key and value are one tensor,
columns Q, then K, then V, in every architecture: one product, cut in the same way in one place, whichever family it is; the schemes join and
cut what frameworks keep apart. A group in `OPTIONAL` is there as a whole or not at all.
"""

from __future__ import annotations

__all__ = ["ARCHITECTURES", "OPTIONAL", "TIED"]

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
}
OPTIONAL: frozenset[str] = frozenset({"segment_embedding", "pooler", "masked_lm", "next_sentence", "output_embedding"})
TIED: dict[str, str] = {"output_embedding": "token_embedding"}  # may be left out where it equals
