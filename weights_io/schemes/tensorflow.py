"""Names in TensorFlow checkpoints: BERT as its authors released it, what bert4keras reads and writes in the same style, GPT-2 as OpenAI released it.

A kernel is (in, out) as here. One is not: BERT's `cls/seq_relationship/output_weights` is (2, d), the transpose of what every other weight is.
Heads for tokens are always the token embedding, and have no tensor. In a training checkpoint optimizer slots lie beside each variable.
"""

from __future__ import annotations

from weights_io.schemes.scheme import KEY, QUERY, SQUEEZED, TRANSPOSED, VALUE, Rule, Scheme

__all__ = ["BERT", "GPT", "GPT2", "GPT2_ML", "NEZHA", "OPENAI_GPT2"]

TRAINING = {
    "{name}/[Adam|Adam_1|adam_m|adam_v|lamb_m|lamb_v|Momentum]": "optimizer state",
    "{name}/[Adafactor|adafactor_v|adafactor_vr|adafactor_vc|adafactor_m]": "optimizer state",
    "[beta1_power|beta2_power]": "optimizer state",
    "global_step": "how many steps were trained",
    "[_CHECKPOINTABLE_OBJECT_GRAPH|save_counter/.ATTRIBUTES/VARIABLE_VALUE]": "bookkeeping of the program that saved",
}

# Every model here names its linear layers alike; the norms differ.
LAYER = {
    "{layer}/attention/self/query/kernel": Rule("blocks.{i}.query_key_value.weight", part=QUERY),
    "{layer}/attention/self/query/bias": Rule("blocks.{i}.query_key_value.bias", part=QUERY),
    "{layer}/attention/self/key/kernel": Rule("blocks.{i}.query_key_value.weight", part=KEY),
    "{layer}/attention/self/key/bias": Rule("blocks.{i}.query_key_value.bias", part=KEY),
    "{layer}/attention/self/value/kernel": Rule("blocks.{i}.query_key_value.weight", part=VALUE),
    "{layer}/attention/self/value/bias": Rule("blocks.{i}.query_key_value.bias", part=VALUE),
    "{layer}/attention/output/dense/kernel": Rule("blocks.{i}.attention_output.weight"),
    "{layer}/attention/output/dense/bias": Rule("blocks.{i}.attention_output.bias"),
    "{layer}/intermediate/dense/kernel": Rule("blocks.{i}.feed_forward_in.weight"),
    "{layer}/intermediate/dense/bias": Rule("blocks.{i}.feed_forward_in.bias"),
    "{layer}/output/dense/kernel": Rule("blocks.{i}.feed_forward_out.weight"),
    "{layer}/output/dense/bias": Rule("blocks.{i}.feed_forward_out.bias"),
}
NORMS_AFTER = {
    "{layer}/attention/output/LayerNorm/gamma": Rule("blocks.{i}.attention_norm.scale"),
    "{layer}/attention/output/LayerNorm/beta": Rule("blocks.{i}.attention_norm.bias"),
    "{layer}/output/LayerNorm/gamma": Rule("blocks.{i}.feed_forward_norm.scale"),
    "{layer}/output/LayerNorm/beta": Rule("blocks.{i}.feed_forward_norm.bias"),
}
NORMS_BEFORE = {
    "{layer}/attention/input/LayerNorm/gamma": Rule("blocks.{i}.attention_norm.scale"),
    "{layer}/attention/input/LayerNorm/beta": Rule("blocks.{i}.attention_norm.bias"),
    "{layer}/input/LayerNorm/gamma": Rule("blocks.{i}.feed_forward_norm.scale"),
    "{layer}/input/LayerNorm/beta": Rule("blocks.{i}.feed_forward_norm.bias"),
}


def _in(layer: str, *tables: dict[str, Rule]) -> dict[str, Rule]:
    """The tables for one layer, under the place where the framework keeps its layers."""
    return {name.replace("{layer}", layer): rule for table in tables for name, rule in table.items()}


EMBEDDINGS = {
    "bert/embeddings/word_embeddings": Rule("token_embedding"),
    "bert/embeddings/token_type_embeddings": Rule("segment_embedding"),
    "bert/embeddings/LayerNorm/gamma": Rule("embedding_norm.scale"),
    "bert/embeddings/LayerNorm/beta": Rule("embedding_norm.bias"),
}
HEADS = {
    "bert/pooler/dense/kernel": Rule("pooler.weight"),
    "bert/pooler/dense/bias": Rule("pooler.bias"),
    "cls/predictions/transform/dense/kernel": Rule("masked_lm.transform.weight"),
    "cls/predictions/transform/dense/bias": Rule("masked_lm.transform.bias"),
    "cls/predictions/transform/LayerNorm/gamma": Rule("masked_lm.norm.scale"),
    "cls/predictions/transform/LayerNorm/beta": Rule("masked_lm.norm.bias"),
    "cls/predictions/output_bias": Rule("masked_lm.bias"),
    "cls/seq_relationship/output_weights": Rule("next_sentence.weight", TRANSPOSED),
    "cls/seq_relationship/output_bias": Rule("next_sentence.bias"),
}

BERT = Scheme(
    name="tensorflow-bert",
    architecture="bert",
    title="BERT in TensorFlow, and bert4keras model='bert' and 'roberta'",
    reference="google-research/bert, modeling.py and run_pretraining.py; bert4keras, models.py",
    dialect="bert4keras",
    table={
        **EMBEDDINGS,
        "bert/embeddings/position_embeddings": Rule("position_embedding"),
        **_in("bert/encoder/layer_{i}", LAYER, NORMS_AFTER),
        **HEADS,
    },
    ignored=TRAINING,
)

NEZHA = Scheme(
    name="tensorflow-nezha",
    architecture="nezha",
    title="NEZHA in TensorFlow, and bert4keras model='nezha'",
    reference="arXiv 1909.00204; bert4keras, models.py: BERT's names without a position table",
    dialect="bert4keras",
    table={**EMBEDDINGS, **_in("bert/encoder/layer_{i}", LAYER, NORMS_AFTER), **HEADS},
    ignored=TRAINING,
)

GPT = Scheme(
    name="tensorflow-gpt",
    architecture="gpt",
    title="GPT in bert4keras, model='gpt'",
    reference="bert4keras, models.py",
    dialect="bert4keras",
    table={
        "gpt/embeddings/word_embeddings": Rule("token_embedding"),
        "gpt/embeddings/position_embeddings": Rule("position_embedding"),
        "gpt/embeddings/token_type_embeddings": Rule("segment_embedding"),
        **_in("gpt/transformer/layer_{i}", LAYER, NORMS_AFTER),
    },
    ignored=TRAINING,
)

GPT2 = Scheme(
    name="tensorflow-gpt2",
    architecture="gpt2",
    title="GPT-2 in bert4keras, model='gpt2': CPM-LM as converted for it",
    reference="bert4keras, models.py; bojone/CPM_LM_bert4keras",
    dialect="bert4keras",
    table={
        "gpt/embeddings/word_embeddings": Rule("token_embedding"),
        "gpt/embeddings/position_embeddings": Rule("position_embedding"),
        **_in("gpt/transformer/layer_{i}", LAYER, NORMS_BEFORE),
        "gpt/output/LayerNorm/gamma": Rule("final_norm.scale"),
        "gpt/output/LayerNorm/beta": Rule("final_norm.bias"),
    },
    ignored=TRAINING,
)

GPT2_ML = Scheme(
    name="tensorflow-gpt2-ml",
    architecture="gpt2_ml",
    title="GPT2-ML (and Grover, whose code it is), and bert4keras model='gpt2_ml'",
    reference="imcaspar/gpt2-ml, train/modeling.py; bert4keras, models.py",
    dialect="bert4keras",
    table={
        "newslm/embeddings/word_embed": Rule("token_embedding"),
        "newslm/embeddings/pos_embed": Rule("position_embedding"),
        "newslm/embeddings/LayerNorm_embed_norm/gamma": Rule("embedding_norm.scale"),
        "newslm/embeddings/LayerNorm_embed_norm/beta": Rule("embedding_norm.bias"),
        "newslm/layer{i:02}/query_layer/kernel": Rule("blocks.{i}.query_key_value.weight", part=QUERY),
        "newslm/layer{i:02}/query_layer/bias": Rule("blocks.{i}.query_key_value.bias", part=QUERY),
        "newslm/layer{i:02}/key_layer/kernel": Rule("blocks.{i}.query_key_value.weight", part=KEY),
        "newslm/layer{i:02}/key_layer/bias": Rule("blocks.{i}.query_key_value.bias", part=KEY),
        "newslm/layer{i:02}/value_layer/kernel": Rule("blocks.{i}.query_key_value.weight", part=VALUE),
        "newslm/layer{i:02}/value_layer/bias": Rule("blocks.{i}.query_key_value.bias", part=VALUE),
        "newslm/layer{i:02}/context_projection_layer/kernel": Rule("blocks.{i}.attention_output.weight"),
        "newslm/layer{i:02}/context_projection_layer/bias": Rule("blocks.{i}.attention_output.bias"),
        "newslm/layer{i:02}/LayerNorm_mlp_ln0/gamma": Rule("blocks.{i}.feed_forward_norm.scale"),
        "newslm/layer{i:02}/LayerNorm_mlp_ln0/beta": Rule("blocks.{i}.feed_forward_norm.bias"),
        "newslm/layer{i:02}/intermediate/kernel": Rule("blocks.{i}.feed_forward_in.weight"),
        "newslm/layer{i:02}/intermediate/bias": Rule("blocks.{i}.feed_forward_in.bias"),
        "newslm/layer{i:02}/output/kernel": Rule("blocks.{i}.feed_forward_out.weight"),
        "newslm/layer{i:02}/output/bias": Rule("blocks.{i}.feed_forward_out.bias"),
        "newslm/layer{i:02}/LayerNorm_mlp_ln1/gamma": Rule("blocks.{i}.output_norm.scale"),
        "newslm/layer{i:02}/LayerNorm_mlp_ln1/beta": Rule("blocks.{i}.output_norm.bias"),
    },
    ignored=TRAINING,
)

OPENAI_GPT2 = Scheme(
    name="openai-gpt2",
    architecture="gpt2",
    title="GPT-2 as OpenAI released it",
    reference="openai/gpt-2, src/model.py: linear layers are convolutions of width 1, (1, in, out)",
    dialect="openai",
    heads={768: 12, 1024: 16, 1280: 20, 1600: 25},
    table={
        "model/wte": Rule("token_embedding"),
        "model/wpe": Rule("position_embedding"),
        "model/h{i}/ln_1/g": Rule("blocks.{i}.attention_norm.scale"),
        "model/h{i}/ln_1/b": Rule("blocks.{i}.attention_norm.bias"),
        "model/h{i}/attn/c_attn/w": Rule("blocks.{i}.query_key_value.weight", SQUEEZED),
        "model/h{i}/attn/c_attn/b": Rule("blocks.{i}.query_key_value.bias"),
        "model/h{i}/attn/c_proj/w": Rule("blocks.{i}.attention_output.weight", SQUEEZED),
        "model/h{i}/attn/c_proj/b": Rule("blocks.{i}.attention_output.bias"),
        "model/h{i}/ln_2/g": Rule("blocks.{i}.feed_forward_norm.scale"),
        "model/h{i}/ln_2/b": Rule("blocks.{i}.feed_forward_norm.bias"),
        "model/h{i}/mlp/c_fc/w": Rule("blocks.{i}.feed_forward_in.weight", SQUEEZED),
        "model/h{i}/mlp/c_fc/b": Rule("blocks.{i}.feed_forward_in.bias"),
        "model/h{i}/mlp/c_proj/w": Rule("blocks.{i}.feed_forward_out.weight", SQUEEZED),
        "model/h{i}/mlp/c_proj/b": Rule("blocks.{i}.feed_forward_out.bias"),
        "model/ln_f/g": Rule("final_norm.scale"),
        "model/ln_f/b": Rule("final_norm.bias"),
    },
    ignored=TRAINING,
)
