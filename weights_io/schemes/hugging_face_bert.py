"""Hugging Face's names for BERT (BertForPreTraining, BertForMaskedLM, BertModel) and RoBERTa.

PyTorch's Linear is (out, in): every weight is transposed. The decoder of the masked-LM head is the token embedding, and its bias has two names; files
hold one or both. Conversions of 2018 and 2019 call a norm's scale and bias gamma and beta. RobertaModel without its prefix has the names of BertModel
without its own, and is read as that; that RoBERTa counts positions from 2 is for the configuration to say.
"""

from __future__ import annotations

from weights_io.schemes.scheme import KEY, QUERY, TRANSPOSED, VALUE, Rule, Scheme

__all__ = ["BERT", "ROBERTA"]

ENCODER = {
    "[bert.]embeddings.word_embeddings.weight": Rule("token_embedding"),
    "[bert.]embeddings.position_embeddings.weight": Rule("position_embedding"),
    "[bert.]embeddings.token_type_embeddings.weight": Rule("segment_embedding"),
    "[bert.]embeddings.LayerNorm.[weight|gamma]": Rule("embedding_norm.scale"),
    "[bert.]embeddings.LayerNorm.[bias|beta]": Rule("embedding_norm.bias"),
    "[bert.]encoder.layer.{i}.attention.self.query.weight": Rule(
        "blocks.{i}.query_key_value.weight", TRANSPOSED, QUERY
    ),
    "[bert.]encoder.layer.{i}.attention.self.query.bias": Rule("blocks.{i}.query_key_value.bias", part=QUERY),
    "[bert.]encoder.layer.{i}.attention.self.key.weight": Rule("blocks.{i}.query_key_value.weight", TRANSPOSED, KEY),
    "[bert.]encoder.layer.{i}.attention.self.key.bias": Rule("blocks.{i}.query_key_value.bias", part=KEY),
    "[bert.]encoder.layer.{i}.attention.self.value.weight": Rule(
        "blocks.{i}.query_key_value.weight", TRANSPOSED, VALUE
    ),
    "[bert.]encoder.layer.{i}.attention.self.value.bias": Rule("blocks.{i}.query_key_value.bias", part=VALUE),
    "[bert.]encoder.layer.{i}.attention.output.dense.weight": Rule("blocks.{i}.attention_output.weight", TRANSPOSED),
    "[bert.]encoder.layer.{i}.attention.output.dense.bias": Rule("blocks.{i}.attention_output.bias"),
    "[bert.]encoder.layer.{i}.attention.output.LayerNorm.[weight|gamma]": Rule("blocks.{i}.attention_norm.scale"),
    "[bert.]encoder.layer.{i}.attention.output.LayerNorm.[bias|beta]": Rule("blocks.{i}.attention_norm.bias"),
    "[bert.]encoder.layer.{i}.intermediate.dense.weight": Rule("blocks.{i}.feed_forward_in.weight", TRANSPOSED),
    "[bert.]encoder.layer.{i}.intermediate.dense.bias": Rule("blocks.{i}.feed_forward_in.bias"),
    "[bert.]encoder.layer.{i}.output.dense.weight": Rule("blocks.{i}.feed_forward_out.weight", TRANSPOSED),
    "[bert.]encoder.layer.{i}.output.dense.bias": Rule("blocks.{i}.feed_forward_out.bias"),
    "[bert.]encoder.layer.{i}.output.LayerNorm.[weight|gamma]": Rule("blocks.{i}.feed_forward_norm.scale"),
    "[bert.]encoder.layer.{i}.output.LayerNorm.[bias|beta]": Rule("blocks.{i}.feed_forward_norm.bias"),
    "[bert.]pooler.dense.weight": Rule("pooler.weight", TRANSPOSED),
    "[bert.]pooler.dense.bias": Rule("pooler.bias"),
}
BUFFERS = {
    "[bert.]embeddings.position_ids": "the numbers 0, 1, 2, ..., a buffer",
    "[bert.]embeddings.token_type_ids": "zeros, a buffer",
}

BERT = Scheme(
    name="hugging-face-bert",
    architecture="bert",
    title="Hugging Face BERT",
    reference="transformers, models/bert/modeling_bert.py",
    table={
        **ENCODER,
        "cls.predictions.transform.dense.weight": Rule("masked_lm.transform.weight", TRANSPOSED),
        "cls.predictions.transform.dense.bias": Rule("masked_lm.transform.bias"),
        "cls.predictions.transform.LayerNorm.[weight|gamma]": Rule("masked_lm.norm.scale"),
        "cls.predictions.transform.LayerNorm.[bias|beta]": Rule("masked_lm.norm.bias"),
        "cls.predictions.bias": Rule("masked_lm.bias"),
        "cls.predictions.decoder.bias": Rule("masked_lm.bias", repeats=True),
        "cls.predictions.decoder.weight": Rule("output_embedding"),
        "cls.seq_relationship.weight": Rule("next_sentence.weight", TRANSPOSED),
        "cls.seq_relationship.bias": Rule("next_sentence.bias"),
    },
    ignored=BUFFERS,
)

ROBERTA = Scheme(
    name="hugging-face-roberta",
    architecture="bert",
    title="Hugging Face RoBERTa",
    reference="transformers, models/roberta/modeling_roberta.py",
    table={
        **{template.replace("[bert.]", "roberta."): rule for template, rule in ENCODER.items()},
        "lm_head.dense.weight": Rule("masked_lm.transform.weight", TRANSPOSED),
        "lm_head.dense.bias": Rule("masked_lm.transform.bias"),
        "lm_head.layer_norm.weight": Rule("masked_lm.norm.scale"),
        "lm_head.layer_norm.bias": Rule("masked_lm.norm.bias"),
        "lm_head.bias": Rule("masked_lm.bias"),
        "lm_head.decoder.bias": Rule("masked_lm.bias", repeats=True),
        "lm_head.decoder.weight": Rule("output_embedding"),
    },
    ignored={template.replace("[bert.]", "roberta."): reason for template, reason in BUFFERS.items()},
    first_position=2,
)
