"""Megatron's names for a GPT-2, as CPM-LM was trained and published: one rank's file, or the ranks merged (`weights_io.megatron`).

PyTorch's Linear is (out, in): weights are transposed. A merged query_key_value is [Q; K; V] along its output axis, so its transpose is what we have.
The file keeps the parameters under "module", beside the state of the training. The head is the token embedding.
"""

from __future__ import annotations

from weights_io.schemes.scheme import TRANSPOSED, Rule, Scheme

__all__ = ["SCHEME"]

SCHEME = Scheme(
    name="megatron-cpm",
    architecture="gpt2",
    title="CPM-LM in Megatron",
    reference="TsinghuaAI/CPM-1-Generate, model/gpt2_modeling.py and mpu/transformer.py; sizes: arXiv 2012.00413, table 2",
    dialect="cpm",
    heads={768: 12, 1024: 16, 2560: 32},
    table={
        "[|module/]word_embeddings.weight": Rule("token_embedding"),
        "[|module/]position_embeddings.weight": Rule("position_embedding"),
        "[|module/]transformer.layers.{i}.input_layernorm.weight": Rule("blocks.{i}.attention_norm.scale"),
        "[|module/]transformer.layers.{i}.input_layernorm.bias": Rule("blocks.{i}.attention_norm.bias"),
        "[|module/]transformer.layers.{i}.attention.query_key_value.weight": Rule(
            "blocks.{i}.query_key_value.weight", TRANSPOSED
        ),
        "[|module/]transformer.layers.{i}.attention.query_key_value.bias": Rule("blocks.{i}.query_key_value.bias"),
        "[|module/]transformer.layers.{i}.attention.dense.weight": Rule(
            "blocks.{i}.attention_output.weight", TRANSPOSED
        ),
        "[|module/]transformer.layers.{i}.attention.dense.bias": Rule("blocks.{i}.attention_output.bias"),
        "[|module/]transformer.layers.{i}.post_attention_layernorm.weight": Rule("blocks.{i}.feed_forward_norm.scale"),
        "[|module/]transformer.layers.{i}.post_attention_layernorm.bias": Rule("blocks.{i}.feed_forward_norm.bias"),
        "[|module/]transformer.layers.{i}.mlp.dense_h_to_4h.weight": Rule(
            "blocks.{i}.feed_forward_in.weight", TRANSPOSED
        ),
        "[|module/]transformer.layers.{i}.mlp.dense_h_to_4h.bias": Rule("blocks.{i}.feed_forward_in.bias"),
        "[|module/]transformer.layers.{i}.mlp.dense_4h_to_h.weight": Rule(
            "blocks.{i}.feed_forward_out.weight", TRANSPOSED
        ),
        "[|module/]transformer.layers.{i}.mlp.dense_4h_to_h.bias": Rule("blocks.{i}.feed_forward_out.bias"),
        "[|module/]transformer.final_layernorm.weight": Rule("final_norm.scale"),
        "[|module/]transformer.final_layernorm.bias": Rule("final_norm.bias"),
    },
    ignored={
        "[torch_rng_state|cuda_rng_state]": "the state of a random number generator",
        "[np_rng_state|random_rng_state|rng_tracker_states]/{name}": "the state of a random number generator",
        "[optimizer|lr_scheduler]/{name}": "optimizer state",
    },
)
