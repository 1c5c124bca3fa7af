"""Naming schemes: the tables invert, nothing is dropped, nothing is read before it is asked for, and recorded models come out right."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import weights_io
from refimpl import gpt2
from refimpl.activation import gelu
from refimpl.attention import merge_heads, split_heads
from refimpl.normalization import layer_norm
from refimpl.softmax import masked_softmax, softmax
from weights_io import schemes
from weights_io.checkpoint import Checkpoint
from weights_io.schemes import SCHEMES, describe, detect, explain, from_canonical, scheme, to_canonical
from weights_io.schemes.canonical import ARCHITECTURES, OPTIONAL, TIED
from weights_io.schemes.scheme import COPY, SQUEEZED, TRANSPOSED, Layer, Part, Rule, Scheme, SchemeError

RECORDED = Path(__file__).parent.parent / "validation" / "recorded"
ALL = list(SCHEMES.values())
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
SIZES = {"v": 11, "p": 7, "s": 2, "d": 6, "3d": 18, "i": 10, "e": 5, "w": 4, "2w": 8, "k": 3, "2": 2, "1": 1}
every_scheme = pytest.mark.parametrize("chosen", ALL, ids=lambda chosen: chosen.name)


def _refused(*words: str) -> Any:
    return pytest.raises(SchemeError, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _random(shape: tuple[int, ...], dtype: Any, rng: Any) -> Any:
    """Arbitrary bits, NaN payloads among them: a conversion must keep them all."""
    raw = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def _model(
    chosen: Scheme, layers: int = 2, dtype: Any = np.float32, groups: Any = None, sizes: Any = SIZES, seed: int = 1
) -> dict[str, Any]:
    """Random parameters of every canonical name that a scheme can write; of optional groups those in `groups`, or all."""
    rng, arrays = np.random.default_rng(seed), {}
    written = {rule.name for rule in chosen.table.values()}
    for template, letters in ARCHITECTURES[chosen.architecture].items():
        group = template.split(".")[0]
        if template not in written or (group in OPTIONAL and groups is not None and group not in groups):
            continue
        for i in range(layers if "{i}" in template else 1):
            arrays[template.format(i=i)] = _random(tuple(sizes[letter] for letter in letters), dtype, rng)
    return arrays


def _same(a: Any, b: Any) -> bool:
    return set(a) == set(b) and all(scheme.same_bits(np.asarray(a[name]), np.asarray(b[name])) for name in a)


class Counting(dict[str, Any]):
    """A mapping that notes what is read of it."""

    def __init__(self, arrays: Any) -> None:
        super().__init__(arrays)
        self.read: list[str] = []

    def checkpoint(self) -> Checkpoint:
        infos = {name: scheme.info_of(dict(self), name) for name in self}

        def read(info: Any) -> Any:
            self.read.append(info.name)
            return dict.__getitem__(self, info.name)

        return Checkpoint("counting", {"kept": "yes"}, infos, read)


# --- the tables -------------------------------------------------------------------------------------------------------------


@every_scheme
def test_a_table_covers_its_architecture_once(chosen: Scheme) -> None:
    """Every canonical name has one tensor, or every part of n; only optional groups and tied heads may have none."""
    names = ARCHITECTURES[chosen.architecture]
    written = [rule for rule in chosen.table.values() if not rule.repeats]
    assert {rule.name for rule in written} <= set(names)
    for name in names:
        parts = sorted((rule.part for rule in written if rule.name == name), key=lambda part: part.k if part else 0)
        if not parts:
            assert name.split(".")[0] in OPTIONAL, name
        elif parts != [None]:
            assert [part.k for part in parts] == list(range(parts[0].n)), name
            assert len({part.n for part in parts}) == 1
    assert all(rule.name in {r.name for r in written} for rule in chosen.table.values() if rule.repeats)


@every_scheme
def test_no_name_has_two_meanings(chosen: Scheme) -> None:
    """No reading of a template is a reading of another, nor of what is left out; the layer is on both sides or on none."""
    readings = [text for template in chosen.table for text in scheme._readings(template)]
    assert len(set(readings)) == len(readings)
    for template, rule in chosen.table.items():
        assert ("{i" in template) == ("{i}" in rule.name), template
        for text in scheme._readings(template):
            assert chosen.reason(text.format(i=Layer(3))) is None, text
            found = explain([text.format(i=Layer(3))], chosen)
            assert not found.ignored
            if rule.part is None:
                assert list(found.pieces) == [rule.name.format(i=3)]


@every_scheme
@given(layer=st.integers(0, 999))
@example(layer=999)
def test_names_of_a_canonical_name_lead_back_to_it(chosen: Scheme, layer: int) -> None:
    for template in {rule.name for rule in chosen.table.values()}:
        canonical = template.format(i=layer)
        names = [name for name, _ in chosen.file_names(canonical)]
        assert names
        assert list(explain(names, chosen).pieces) == [canonical]


def test_canonical_names_of_a_gpt2_are_those_of_the_engine() -> None:
    config = gpt2.GPT2Config(11, 7, 6, 2, 2, n_inner=10, tie_word_embeddings=False)
    table = ARCHITECTURES["gpt2"]
    expected = {
        name.format(i=i): tuple(SIZES[letter] for letter in letters)
        for name, letters in table.items()
        for i in range(2 if "{i}" in name else 1)
    }
    assert gpt2.GPT2Weights.shapes(config) == expected
    assert all(name in ARCHITECTURES[a] for a in ("gpt2", "bert", "nezha") for name in TIED)


@every_scheme
def test_the_listed_shapes_are_those_of_the_files(chosen: Scheme) -> None:
    arrays = from_canonical(_model(chosen, layers=1), chosen)
    rows = {row["file_name"]: row for row in describe(chosen)}
    assert list(rows) == [*chosen.table, *chosen.ignored]
    for template, rule in chosen.table.items():
        letters = rows[template]["shape"].strip("()").split(", ")
        if not rule.repeats:
            name = next(scheme._readings(template)).format(i=Layer(0))
            assert arrays[name].shape == tuple(SIZES[letter] for letter in letters), template
        assert rows[template]["canonical"] == rule.name
    assert all(rows[template]["how"] == f"left out: {reason}" for template, reason in chosen.ignored.items())


def test_a_listing_reads_like_documentation() -> None:
    rows = {row["file_name"]: row for row in describe(SCHEMES["hugging-face-bert"])}
    query = rows["[bert.]encoder.layer.{i}.attention.self.query.weight"]
    assert query == {
        "file_name": "[bert.]encoder.layer.{i}.attention.self.query.weight",
        "shape": "(d, d)",
        "canonical": "blocks.{i}.query_key_value.weight",
        "how": "transposed, query: part 1 of 3",
    }
    assert rows["[bert.]encoder.layer.{i}.attention.self.value.bias"]["how"] == "value: part 3 of 3"
    assert rows["[bert.]encoder.layer.{i}.attention.self.value.bias"]["shape"] == "(d)"
    assert rows["cls.predictions.decoder.bias"]["how"] == "the same tensor again; not written"
    assert tuple(rows["cls.seq_relationship.weight"].values())[1:] == ("(2, d)", "next_sentence.weight", "transposed")
    assert rows["[bert.]embeddings.position_ids"]["how"] == "left out: the numbers 0, 1, 2, ..., a buffer"
    openai = {row["file_name"]: row for row in describe(SCHEMES["openai-gpt2"])}
    assert tuple(openai["model/h{i}/mlp/c_fc/w"].values())[1:] == (
        "(1, d, i)",
        "blocks.{i}.feed_forward_in.weight",
        "first axis removed",
    )


def test_schemes_are_found_by_their_names() -> None:
    assert all(schemes.named(name) is chosen and chosen.name == name for name, chosen in SCHEMES.items())
    with _refused("unknown naming scheme", "hugging-face-gpt2", "'keras'"):
        schemes.named("keras")
    assert schemes.RULES.items() <= weights_io.rules().items()


# --- there and back ---------------------------------------------------------------------------------------------------------


@every_scheme
@given(data=st.data())
def test_there_and_back_is_the_same_bit_for_bit(chosen: Scheme, data: Any) -> None:
    """to_canonical(from_canonical(x)) = x, and from_canonical(to_canonical(y)) = y, for any sizes, layers, dtype and groups."""
    sizes = {letter: data.draw(st.integers(1, 5), letter) for letter in "vpsdiewk"} | {"2": 2, "1": 1}
    sizes["3d"], sizes["2w"] = 3 * sizes["d"], 2 * sizes["w"]
    x = _model(
        chosen,
        layers=data.draw(st.integers(1, 12)),
        dtype=data.draw(st.sampled_from(DTYPES)),
        groups=data.draw(st.sets(st.sampled_from(sorted(OPTIONAL)))),
        sizes=sizes,
        seed=data.draw(st.integers(0, 99)),
    )
    theirs = from_canonical(x, chosen)
    assert detect(theirs) is chosen
    ours = to_canonical(theirs, chosen)
    assert _same(ours, x)
    assert _same(from_canonical(ours, chosen), theirs)
    for made in (theirs, ours):
        for name in made:
            array, info = made[name], made.info(name)
            assert (array.shape, array.dtype, array.nbytes) == (info.shape, info.dtype, info.nbytes)
            assert info.name == name
            assert not array.flags.writeable
            made.read_into(name, out := np.zeros(info.shape, info.dtype))
            assert scheme.same_bits(out, array)
    assert all(array.flags.writeable for array in x.values())


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "extractor"])
def test_every_pair_of_schemes_of_an_architecture_converts(architecture: str) -> None:
    """A model goes through all schemes that can hold it, one after the other, and comes back."""
    members = [chosen for chosen in ALL if chosen.architecture == architecture]
    groups = {"segment_embedding", "pooler", "masked_lm"}
    x = _model(members[0], groups=groups)
    for a, b in itertools.permutations(members, 2):
        assert _same(to_canonical(from_canonical(to_canonical(from_canonical(x, a), a), b), b), x), (a.name, b.name)


def test_transforms_do_what_they_are_called() -> None:
    array = np.arange(6).reshape(1, 2, 3)
    assert SQUEEZED.apply(array).shape == (2, 3)
    assert np.array_equal(SQUEEZED.undo(SQUEEZED.apply(array)), array)
    assert np.array_equal(TRANSPOSED.apply(array[0]), array[0].T)
    assert COPY.apply(array) is array


def test_what_frameworks_keep_apart_is_joined_in_order_and_orientation() -> None:
    """By hand, from the frameworks' definitions: TensorFlow's kernels are (in, out), PyTorch's Linear is (out, in)."""
    rng = np.random.default_rng(0)
    x = _model(SCHEMES["tensorflow-bert"], layers=1)
    parts = {name: rng.normal(size=(6, 6)).astype(np.float32) for name in ("query", "key", "value")}
    x["blocks.0.query_key_value.weight"] = np.concatenate([parts["query"], parts["key"], parts["value"]], axis=1)
    tensorflow = from_canonical(x, SCHEMES["tensorflow-bert"])
    torch = from_canonical(x, SCHEMES["hugging-face-bert"])
    for name, part in parts.items():
        assert np.array_equal(tensorflow[f"bert/encoder/layer_0/attention/self/{name}/kernel"], part)
        assert np.array_equal(torch[f"bert.encoder.layer.0.attention.self.{name}.weight"], part.T)
    assert tensorflow["cls/seq_relationship/output_weights"].shape == (2, 6)
    same = scheme.same_bits
    assert same(tensorflow["cls/seq_relationship/output_weights"], x["next_sentence.weight"].T)
    assert same(torch["cls.seq_relationship.weight"], x["next_sentence.weight"].T)
    assert same(tensorflow["bert/pooler/dense/kernel"], x["pooler.weight"])
    assert same(torch["bert.pooler.dense.weight"], x["pooler.weight"].T)


# --- names that are read in several ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("hugging-face-gpt2", r"^transformer\.", ""),
        ("hugging-face-bert", r"^bert\.", ""),
        ("hugging-face-bert", r"LayerNorm\.weight$", "LayerNorm.gamma"),
        ("hugging-face-bert", r"LayerNorm\.bias$", "LayerNorm.beta"),
        ("hugging-face-roberta", r"LayerNorm\.weight$", "LayerNorm.gamma"),
        ("megatron-cpm", r"^", "module/"),
    ],
)
def test_other_spellings_are_read(name: str, old: str, new: str) -> None:
    chosen, groups = SCHEMES[name], {"segment_embedding", "pooler"}
    x = _model(chosen, groups=groups)
    theirs = {re.sub(old, new, theirs): array for theirs, array in from_canonical(x, chosen).items()}
    assert set(theirs) != set(from_canonical(x, chosen))
    assert detect(theirs) is chosen
    assert _same(to_canonical(theirs, chosen), x)


def test_layers_are_written_in_one_way() -> None:
    chosen = SCHEMES["tensorflow-gpt2-ml"]
    names = from_canonical(_model(chosen, layers=12), chosen)
    assert {"newslm/layer00/output/kernel", "newslm/layer09/output/kernel", "newslm/layer11/output/kernel"} <= set(
        names
    )
    for wrong in ("newslm/layer0/output/kernel", "newslm/layer009/output/kernel", "newslm/layer{i:02}/output/kernel"):
        assert explain([wrong], chosen).unexplained == [wrong]
    for wrong in (
        "h.00.ln_1.bias",
        "h.+1.ln_1.bias",
        "h.1_0.ln_1.bias",
        "h.\u0661.ln_1.bias",
        "h.{i}.ln_1.bias",
        "h..ln_1.bias",
        "h.1000.ln_1.bias",
    ):
        assert explain([wrong], SCHEMES["hugging-face-gpt2"]).unexplained == [wrong]


IGNORED = {
    "hugging-face-gpt2": ["transformer.h.0.attn.bias", "h.11.attn.masked_bias"],
    "hugging-face-bert": ["bert.embeddings.position_ids", "embeddings.position_ids"],
    "hugging-face-roberta": ["roberta.embeddings.position_ids"],
    "tensorflow-bert": [
        "global_step",
        "beta1_power",
        "bert/embeddings/LayerNorm/beta/adam_m",
        "bert/pooler/dense/kernel/lamb_v",
        "cls/predictions/output_bias/Adam_1",
    ],
    "tensorflow-gpt2-ml": ["newslm/embeddings/word_embed/adafactor_vr"],
    "megatron-cpm": ["torch_rng_state", "optimizer/state/0/exp_avg", "np_rng_state/1"],
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_no_parameter_is_left_out_for_a_reason(name: str) -> None:
    chosen = SCHEMES[name]
    x = _model(chosen, groups={"segment_embedding", "pooler", "masked_lm"})
    extra = {buffer: np.zeros(1, np.int64) for buffer in IGNORED[name]}
    theirs = dict(from_canonical(x, chosen)) | extra
    assert _same(to_canonical(theirs, chosen), x)
    found = explain(theirs, chosen)
    assert set(found.ignored) == set(extra)
    assert all(reason in chosen.ignored.values() for reason in found.ignored.values())
    assert found.explained == len(theirs) - len(extra)


# --- laziness ---------------------------------------------------------------------------------------------------------------


@every_scheme
def test_nothing_is_read_before_it_is_asked_for(chosen: Scheme) -> None:
    counting = Counting(from_canonical(_model(chosen), chosen))
    checkpoint = counting.checkpoint()
    ours = to_canonical(checkpoint, chosen)
    theirs = from_canonical(ours, chosen)
    assert [made.info(name).name for made in (ours, theirs) for name in made]
    assert ours.metadata == theirs.metadata == {"kept": "yes"}
    assert ours.format == "counting, canonical names"
    assert theirs.format == f"counting, canonical names, names of {chosen.name}"
    assert counting.read == []
    name = "blocks.1.kernel" if chosen.architecture == "extractor" else "blocks.1.query_key_value.weight"
    assert ours[name].shape == ((3, 4, 8) if chosen.architecture == "extractor" else (6, 18))
    assert counting.read == [piece for piece, _ in chosen.file_names(name)]


def test_closing_what_was_made_closes_the_file(tmp_path: Path) -> None:
    chosen = SCHEMES["hugging-face-gpt2"]
    weights_io.save(tmp_path / "model.safetensors", from_canonical(_model(chosen), chosen))
    with to_canonical(weights_io.open(tmp_path / "model.safetensors"), chosen) as ours:
        array = ours["token_embedding"]
    assert array.shape == (11, 6)
    with pytest.raises(weights_io.WeightsError, match="closed"):
        ours["position_embedding"]


def test_a_copy_is_a_view_and_a_joined_tensor_costs_its_own_size() -> None:
    sizes = SIZES | {"d": 512, "3d": 1536}
    chosen = SCHEMES["hugging-face-bert"]
    theirs = {name: array.copy() for name, array in from_canonical(_model(chosen, 1, sizes=sizes), chosen).items()}
    ours = to_canonical(theirs, chosen)
    assert np.shares_memory(ours["embedding_norm.scale"], theirs["bert.embeddings.LayerNorm.weight"])
    assert np.shares_memory(ours["pooler.weight"], theirs["bert.pooler.dense.weight"])
    tracemalloc.start()
    array = ours["blocks.0.query_key_value.weight"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes == 3 << 20
    assert peak < 1.05 * array.nbytes


def test_parts_of_one_tensor_are_not_taken_for_one_stored_twice() -> None:
    chosen = SCHEMES["tensorflow-gpt2"]
    assert from_canonical(_model(chosen), chosen).shared() == []


# --- recorded models --------------------------------------------------------------------------------------------------------


def _dense(w: Any, x: Any, name: str) -> Any:
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def _norm(w: Any, x: Any, name: str, eps: float) -> Any:
    return layer_norm(x, w[f"{name}.scale"], w[f"{name}.bias"], eps)


def _attention(qkv: Any, heads: int, allowed: Any, relative: Any = None) -> Any:
    q, k, v = (split_heads(part, heads) for part in np.split(qkv, 3, axis=-1))
    scores = q @ np.swapaxes(k, -1, -2)
    scores = scores if relative is None else scores + np.einsum("bhnw,nmw->bhnm", q, relative)
    weights = masked_softmax(scores / np.sqrt(q.shape[-1]), allowed)
    mixed = weights @ v
    return merge_heads(mixed if relative is None else mixed + np.einsum("bhnm,nmw->bhnw", weights, relative))


def _relative_positions(n: int, width: int) -> Any:
    """NEZHA: a fixed sinusoid of the distance, clipped at 64, the same for scores and values."""
    distance = np.clip(np.arange(n)[None, :] - np.arange(n)[:, None], -64, 64) + 64
    angle = distance[..., None] / 10_000 ** (2 * (np.arange(width) // 2) / width)
    return np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))


def _hidden(w: Any, ids: Any, segments: Any, heads: int, allowed: Any, eps: float) -> Any:
    """The last layer of a BERT, NEZHA, GPT or GPT2-ML by canonical names, in float64: enough to see that every parameter is what it is called."""
    x = w["token_embedding"][ids]
    x = x + w["segment_embedding"][segments] if "segment_embedding" in w else x
    x = x + w["position_embedding"][: ids.shape[1]] if "position_embedding" in w else x
    relative = None if "position_embedding" in w else _relative_positions(ids.shape[1], x.shape[-1] // heads)
    x = _norm(w, x, "embedding_norm", eps) if "embedding_norm.scale" in w else x
    for i in range(sum(name.endswith("query_key_value.bias") for name in w)):
        mixed = _attention(_dense(w, x, f"blocks.{i}.query_key_value"), heads, allowed, relative)
        x = x + _dense(w, mixed, f"blocks.{i}.attention_output")
        if f"blocks.{i}.output_norm.scale" in w:
            inner = _dense(w, _norm(w, x, f"blocks.{i}.feed_forward_norm", eps), f"blocks.{i}.feed_forward_in")
            x = x + _dense(w, gelu(inner, "none"), f"blocks.{i}.feed_forward_out")
            x = _norm(w, x, f"blocks.{i}.output_norm", eps)
        else:
            x = _norm(w, x, f"blocks.{i}.attention_norm", eps)
            inner = gelu(_dense(w, x, f"blocks.{i}.feed_forward_in"), "none")
            x = _norm(w, x + _dense(w, inner, f"blocks.{i}.feed_forward_out"), f"blocks.{i}.feed_forward_norm", eps)
    return x


def _answers(
    w: Any, ids: Any, segments: Any = None, *, real: Any, heads: int, eps: float = 1e-12, causal: bool = False
) -> dict[str, Any]:
    allowed = np.broadcast_to(real[:, None, None, :], (len(ids), 1, ids.shape[1], ids.shape[1]))
    allowed = allowed & np.tri(ids.shape[1], dtype=bool) if causal else allowed
    x = _hidden(w, ids, segments, heads, allowed, eps)
    answers = {"hidden": x, "logits": x @ w["token_embedding"].T}
    if "pooler.bias" in w:
        answers["pooled"] = np.tanh(_dense(w, x[:, 0], "pooler"))
        answers["nsp_logits"] = _dense(w, answers["pooled"], "next_sentence")
        words = _norm(w, gelu(_dense(w, x, "masked_lm.transform"), "none"), "masked_lm.norm", 1e-12)
        answers["mlm_logits"] = words @ w["token_embedding"].T + w["masked_lm.bias"]
    return answers


def _not_padding(ids: Any) -> Any:
    """bert4keras: id 0 is masked as a key, except at position 0."""
    return (ids != 0) | (np.arange(ids.shape[1]) == 0)


def _doubles(ours: Any) -> dict[str, Any]:
    return {name: array.astype(np.float64) for name, array in ours.items()}


def _relative(found: Any, expected: Any) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def test_bert4keras_answers_with_the_canonical_parameters_of_a_shared_bert(shared: Any) -> None:
    """In TensorFlow's scheme: the transposed next-sentence weights, the order of the norms, the parts of the projections."""
    folder = shared("b4k_bert")
    with weights_io.open(folder / "model.ckpt") as checkpoint:
        assert detect(checkpoint) is SCHEMES["tensorflow-bert"]
        assert checkpoint.info("cls/seq_relationship/output_weights").shape == (2, 32)
        w = _doubles(to_canonical(checkpoint, SCHEMES["tensorflow-bert"]))
    with np.load(folder / "io.npz") as io:
        answers = _answers(w, io["mlm_ids"], io["mlm_segments"], real=_not_padding(io["mlm_ids"]), heads=4)
        assert _relative(softmax(answers["nsp_logits"]), io["mlm_nsp"]) <= 1e-12
        # recorded in float32: each number within its own rounding
        assert np.all(np.abs(softmax(answers["mlm_logits"]) - io["mlm_probs"]) <= 2**-24 * io["mlm_probs"] + 1e-12)


@pytest.mark.parametrize(
    ("model", "eps", "names"),
    [
        ("bert", 1e-12, {"hidden": "encoder", "pooled": "pooled", "mlm_logits": "mlm_logits"}),
        ("nezha", 1e-7, {"hidden": "encoder", "pooled": "pooled", "mlm_logits": "mlm_logits"}),
        ("gpt", 1e-12, {"logits": "logits"}),
        ("gpt2_ml", 1e-5, {"logits": "logits"}),
    ],
)
def test_bert4keras_answers_with_the_canonical_parameters(model: str, eps: float, names: Any, recorded: Any) -> None:
    """In each of TensorFlow's schemes, a whole forward pass."""
    chosen = SCHEMES[f"tensorflow-{model.replace('_', '-')}"]
    with weights_io.open(RECORDED / "bert4keras" / model / "model.ckpt") as checkpoint:
        assert detect(checkpoint) is chosen
        assert explain(checkpoint, chosen).explained == len(checkpoint)
        assert _same(from_canonical(to_canonical(checkpoint, chosen), chosen), checkpoint)
        w = _doubles(to_canonical(checkpoint, chosen))
    recording = recorded(f"bert4keras/{model}")
    ids, segments = recording["ids"], recording.get("segments")
    answers = _answers(w, ids, segments, real=_not_padding(ids), heads=2, eps=eps, causal="gpt" in model)
    for ours, theirs in names.items():
        assert _relative(answers[ours], recording[theirs]) <= 1e-12, ours
    if "nsp_logits" in answers:
        assert _relative(softmax(answers["nsp_logits"]), recording["nsp_probabilities"]) <= 1e-12


@pytest.mark.parametrize("folder", ["model", "model_bin", "model_bin_old"])
def test_transformers_answers_with_the_canonical_parameters(folder: str, recorded: Any) -> None:
    """In Hugging Face's scheme: without the tied tensors, with both names of each, and with gamma and beta."""
    with weights_io.open(RECORDED / "hugging_face_bert" / folder) as checkpoint:
        assert detect(checkpoint) is SCHEMES["hugging-face-bert"]
        w = _doubles(to_canonical(checkpoint, SCHEMES["hugging-face-bert"]))
    recording = recorded("hugging_face_bert")
    real = recording["mask"] == 1
    answers = _answers(w, recording["ids"], recording["segments"], real=real, heads=4)
    for name in ("pooled", "nsp_logits"):
        assert _relative(answers[name], recording[name]) <= 1e-12, name
    for name in ("hidden", "mlm_logits"):
        assert _relative(answers[name][real], recording[name][real]) <= 1e-12, name
    assert ("output_embedding" in w) == (folder != "model")
    if "output_embedding" in w:
        assert np.array_equal(w["output_embedding"], w["token_embedding"])


def test_a_wrong_place_for_a_parameter_would_be_seen(recorded: Any) -> None:
    """The comparison has the power to see exchanged norms, projections and a weight that is not transposed."""
    with weights_io.open(RECORDED / "hugging_face_bert" / "model") as checkpoint:
        w = _doubles(to_canonical(checkpoint, SCHEMES["hugging-face-bert"]))
    recording = recorded("hugging_face_bert")
    real = recording["mask"] == 1

    def distance(changes: Any) -> float:
        answers = _answers(w | changes, recording["ids"], recording["segments"], real=real, heads=4)
        return max(_relative(answers[name][real], recording[name][real]) for name in ("hidden", "mlm_logits"))

    qkv = w["blocks.0.query_key_value.weight"]
    changed = [
        {"blocks.0.query_key_value.weight": np.concatenate([qkv[:, 32:64], qkv[:, :32], qkv[:, 64:]], axis=1)},
        {"blocks.0.query_key_value.weight": qkv.reshape(32, 3, 32).transpose(2, 1, 0).reshape(32, 96)},
        {"blocks.0.attention_norm.scale": w["blocks.0.feed_forward_norm.scale"]},
        {"blocks.1.attention_output.weight": w["blocks.1.attention_output.weight"].T},
        {"masked_lm.transform.weight": w["masked_lm.transform.weight"].T},
    ]
    assert distance({}) <= 1e-12
    assert all(distance(change) > 1e-6 for change in changed)


@pytest.mark.parametrize(
    ("name", "expected", "tensors"),
    [
        ("b4k_gpt2", "tensorflow-gpt2", 52),
        ("b4k_bert", "tensorflow-bert", 46),
        ("b4k_realformer", "tensorflow-bert", 74),
    ],
)
def test_shared_checkpoints_of_bert4keras_are_explained_whole(
    name: str, expected: str, tensors: int, shared: Any
) -> None:
    with weights_io.open(shared(name) / "model.ckpt") as checkpoint:
        chosen = detect(checkpoint)
        assert chosen.name == expected
        found = explain(checkpoint, chosen)
        assert (found.explained, len(found.ignored), found.problems) == (tensors, 0, [])
        back = from_canonical(to_canonical(checkpoint, chosen), chosen)
        assert _same(back, checkpoint)


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_every_unexplained_and_missing_name_is_listed() -> None:
    chosen = SCHEMES["tensorflow-bert"]
    theirs = dict(from_canonical(_model(chosen), chosen))
    del theirs["bert/pooler/dense/bias"], theirs["bert/encoder/layer_1/attention/self/key/kernel"]
    del theirs["bert/embeddings/word_embeddings"]
    theirs |= {f"strange/{k}": np.zeros(1) for k in range(30)}
    with _refused("do not fit the naming scheme tensorflow-bert (35 problems) [scheme.names]") as caught:
        to_canonical(theirs, chosen)
    message = str(caught.value)
    for k in range(30):
        assert f"not in the scheme: strange/{k}\n" in message
    for line in (
        "missing: bert/pooler/dense/bias (pooler.bias)",
        "missing: bert/embeddings/word_embeddings (token_embedding)",
        "missing: bert/encoder/layer_1/attention/self/key/kernel (blocks.1.query_key_value.weight)",
        "not in the scheme: bert/encoder/layer_1/attention/self/query/kernel",
    ):
        assert line in message
    assert len(caught.value.problems) == 35
    assert caught.value.rule == "scheme.names"


def test_a_message_shows_a_hundred_problems_and_counts_the_rest() -> None:
    theirs = dict(from_canonical(_model(SCHEMES["tensorflow-gpt"]), SCHEMES["tensorflow-gpt"]))
    theirs |= {f"strange/{k}/{'x' * 500}\n\x1b": np.zeros(1) for k in range(150)}
    with _refused("(150 problems)", "and 50 more") as caught:
        to_canonical(theirs, SCHEMES["tensorflow-gpt"])
    assert len(caught.value.problems) == 150
    assert len(str(caught.value)) < 60_000
    assert "\x1b" not in str(caught.value)


def test_layers_without_any_tensor_are_gaps() -> None:
    chosen = SCHEMES["hugging-face-gpt2"]
    theirs = {
        name: array
        for name, array in from_canonical(_model(chosen, layers=6), chosen).items()
        if not re.search("h.[023].", name)
    }
    with _refused("(2 problems)", "missing: blocks.0, all of it", "missing: blocks.2 to blocks.3, all of it"):
        to_canonical(theirs, chosen)
    with _refused("missing: h.0.ln_1.weight".replace("h.0", "transformer.h.0"), "blocks.0.attention_norm.scale"):
        to_canonical({"wte.weight": np.zeros((2, 2))}, chosen)


def test_two_tensors_for_one_parameter_are_refused() -> None:
    chosen = SCHEMES["hugging-face-bert"]
    theirs = dict(from_canonical(_model(chosen), chosen))
    theirs["bert.embeddings.LayerNorm.gamma"] = theirs["bert.embeddings.LayerNorm.weight"]
    with _refused(
        "two tensors claim one parameter: embedding_norm.scale: bert.embeddings.LayerNorm.weight, bert.embeddings.LayerNorm.gamma"
    ):
        to_canonical(theirs, chosen)


def test_a_tensor_that_is_stored_twice_must_agree() -> None:
    chosen = SCHEMES["hugging-face-bert"]
    x = _model(chosen)
    theirs = dict(from_canonical(x, chosen))
    assert "cls.predictions.decoder.bias" not in theirs
    bias = theirs["cls.predictions.bias"]
    twice = theirs | {"cls.predictions.decoder.bias": bias.copy()}
    assert _same(to_canonical(twice, chosen), x)
    assert _same(from_canonical(to_canonical(twice, chosen), chosen), theirs)
    other = {name: array for name, array in twice.items() if name != "cls.predictions.bias"}
    assert _same(to_canonical(other, chosen), x)
    others = (bias.view(np.int32), bias[:, None], bias.astype(np.float64), bias[:-1])
    for wrong in (*others, np.where(np.arange(11) == 3, np.float32(9), bias)):
        ours = to_canonical(twice | {"cls.predictions.decoder.bias": wrong}, chosen)
        assert ours["token_embedding"].shape == (11, 6)
        with _refused("stored twice differs [scheme.repeated]", "cls.predictions.bias", "cls.predictions.decoder.bias"):
            ours["masked_lm.bias"]


def test_an_untied_head_has_no_place_where_heads_are_always_tied() -> None:
    x = _model(SCHEMES["hugging-face-gpt2"])
    for target in ("tensorflow-gpt2", "megatron-cpm", "openai-gpt2"):
        chosen = SCHEMES[target]
        tied = x | {"output_embedding": x["token_embedding"].copy()}
        theirs = from_canonical(tied, chosen)
        back = to_canonical(theirs, chosen)
        assert "output_embedding" not in back
        assert _same(back, {name: array for name, array in x.items() if name != "output_embedding"})
        table = next(name for name, rule in chosen.file_names("token_embedding"))
        with _refused("stored twice differs", "'token_embedding'", "'output_embedding' equal to it"):
            from_canonical(x, chosen)[table]


def test_parameters_without_a_place_and_missing_ones_are_listed() -> None:
    x = _model(SCHEMES["tensorflow-bert"])
    with _refused(
        "do not fit the naming scheme hugging-face-roberta (2 problems)",
        "canonical names of a bert",
        "no place in the scheme: next_sentence.weight",
        "no place in the scheme: next_sentence.bias",
    ):
        from_canonical(x, SCHEMES["hugging-face-roberta"])
    del x["blocks.0.feed_forward_in.bias"], x["pooler.bias"]
    with _refused("(2 problems)", "missing: pooler.bias", "missing: blocks.0.feed_forward_in.bias"):
        from_canonical(x, SCHEMES["tensorflow-bert"])
    with _refused("no place in the scheme: h.0.ln_1.weight", "missing: token_embedding"):
        from_canonical({"h.0.ln_1.weight": np.zeros(2)}, SCHEMES["tensorflow-gpt2"])


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "words"),
    [
        ("megatron-cpm", "transformer.layers.1.attention.dense.weight", (6,), ("2 axes", "(6,)")),
        ("openai-gpt2", "model/h0/attn/c_attn/w", (6, 18), ("(1, in, out)", "(6, 18)")),
        ("openai-gpt2", "model/h0/attn/c_attn/w", (2, 6, 18), ("(1, in, out)", "(2, 6, 18)")),
        ("openai-gpt2", "model/h0/attn/c_attn/w", (), ("(1, in, out)", "()")),
        (
            "tensorflow-gpt",
            "gpt/transformer/layer_0/attention/self/key/kernel",
            (6, 5),
            ("3 times (6, 6)", "(6, 5)"),
        ),
        ("tensorflow-gpt", "gpt/transformer/layer_0/attention/self/query/bias", (), ("3 times ()", "(6,)")),
    ],
)
def test_axes_that_do_not_fit_are_refused(name: str, tensor: str, shape: Any, words: Any) -> None:
    chosen = SCHEMES[name]
    theirs = dict(from_canonical(_model(chosen), chosen)) | {tensor: np.zeros(shape, np.float32)}
    with _refused("[scheme.layout]", *words):
        to_canonical(theirs, chosen)


def test_parts_of_different_dtypes_are_refused() -> None:
    chosen = SCHEMES["tensorflow-gpt"]
    name = "gpt/transformer/layer_0/attention/self/key/bias"
    theirs = dict(from_canonical(_model(chosen), chosen)) | {name: np.zeros(6, np.float16)}
    with _refused("[scheme.layout]", "blocks.0.query_key_value.bias", "float32", "float16"):
        to_canonical(theirs, chosen)


def test_what_cannot_be_cut_is_refused() -> None:
    x = _model(SCHEMES["tensorflow-gpt2"])
    with _refused(
        "the shapes are not those of one gpt2", "query_key_value.weight expected (d, 3d) = (6, 18), got (6, 17)"
    ):
        from_canonical(x | {"blocks.0.query_key_value.weight": np.zeros((6, 17))}, SCHEMES["tensorflow-gpt2"])
    with _refused("the shapes are not those of one gpt2", "blocks.0.attention_output.weight", "(6,)"):
        from_canonical(x | {"blocks.0.attention_output.weight": np.zeros(6)}, SCHEMES["megatron-cpm"])


def test_shapes_of_two_models_are_refused_in_both_directions() -> None:
    """A half of a model's columns, a layout that another framework uses, a norm of another width: every one is listed."""
    scheme = SCHEMES["hugging-face-gpt2"]
    x = _model(scheme)
    theirs = dict(from_canonical(x, scheme))
    wrong = theirs | {"transformer.h.0.attn.c_attn.weight": np.zeros((6, 9)), "transformer.h.1.ln_1.bias": np.zeros(7)}
    with _refused(
        "(2 problems)", "attention_norm.bias", "query_key_value.weight expected (d, 3d) = (6, 18), got (6, 9)"
    ):
        to_canonical(wrong, scheme)
    name = "transformer.h.0.attn.c_proj.weight"
    with _refused("(1 problems)", "attention_output.weight expected (d, d) = (6, 6), got (6, 5)"):
        to_canonical(theirs | {name: theirs[name][:, :5]}, scheme)
    with _refused("feed_forward_in.bias"):
        from_canonical(x | {"blocks.1.feed_forward_in.bias": np.zeros(5)}, scheme)


def test_the_state_of_a_parameter_needs_the_parameter() -> None:
    scheme = SCHEMES["tensorflow-gpt2"]
    theirs = dict(from_canonical(_model(scheme), scheme))
    name = next(iter(theirs))
    found = explain([*theirs, f"{name}/Adam", "adapter/kernel/Adam"], scheme)
    assert found.ignored == {f"{name}/Adam": "optimizer state"}
    assert found.unexplained == ["adapter/kernel/Adam"]


def test_positions_that_are_counted_from_other_rows_are_not_converted(tmp_path: Path) -> None:
    import weights_io
    from weights_io.conversion import convert

    scheme = SCHEMES["hugging-face-roberta"]
    weights_io.save(tmp_path / "a.safetensors", dict(from_canonical(_model(scheme), scheme)))
    with weights_io.open(tmp_path / "a.safetensors") as source:
        for target in ("tensorflow-bert", "hugging-face-bert"):
            with pytest.raises(
                weights_io.WeightsError, match=r"(?s)count positions from different rows.*counts from 0"
            ):
                convert(source, tmp_path / "b.safetensors", scheme=target)


# --- detection --------------------------------------------------------------------------------------------------------------


def test_names_of_no_scheme_are_refused_with_the_nearest() -> None:
    with _refused(
        "those of no naming scheme [scheme.unknown]", "2 names", "not in any scheme: a", "not in any scheme: b"
    ):
        detect(["a", "b"])
    with _refused("those of no naming scheme", "1 of 3 names are in tensorflow-gpt2", "not in the scheme: strange"):
        detect(["strange", "gpt/output/LayerNorm/beta", "global_step"])
    half = list(from_canonical(_model(SCHEMES["tensorflow-gpt2"]), SCHEMES["tensorflow-gpt2"]))
    with _refused("those of no naming scheme", "36 of 72 names are in tensorflow-gpt2", "not in the scheme: strange/0"):
        detect([*half, *(f"strange/{k}" for k in range(len(half)))])
    assert detect([*half, *(f"strange/{k}" for k in range(len(half) - 1))]) is SCHEMES["tensorflow-gpt2"]
    with _refused("those of no naming scheme", "0 names"):
        detect([])


def test_a_few_strange_names_do_not_hide_a_scheme() -> None:
    for chosen in ALL:
        theirs = [*from_canonical(_model(chosen), chosen), "score.weight", "global_step_2"]
        assert detect(theirs[1:]) is chosen


def test_names_that_fit_two_schemes_are_refused() -> None:
    first = SCHEMES["tensorflow-gpt2"]
    second = Scheme("other", "gpt2", "", "", first.table)
    with _refused("fit several naming schemes equally well", "tensorflow-gpt2, other", "name the scheme"):
        detect(from_canonical(_model(first), first), [first, second])


def test_bert_and_nezha_differ_by_the_position_table_alone() -> None:
    bert, nezha = SCHEMES["tensorflow-bert"], SCHEMES["tensorflow-nezha"]
    names = list(from_canonical(_model(bert), bert))
    assert detect(names) is bert
    assert detect([name for name in names if "position" not in name]) is nezha


@pytest.mark.parametrize(
    "names",
    [
        [f"h.{k}.ln_1.bias" for k in range(3000)],
        ["h.999.ln_1.bias", "h.0.ln_1.bias"],
        ["h." + "9" * 5000 + ".ln_1.bias", "9" * 100_000],
        ["1." * 50_000, ".".join(map(str, range(60)))],
        ["[transformer.]wte.weight", "wte.weight", "{", "}", "{i}", "{0}", "{i:02}", "%s", "\ud800", ""],
        [f"{'x/' * 1000}Adam{k}" for k in range(1000)],
    ],
)
def test_hostile_names_cost_little_and_are_refused_in_words(names: list[str]) -> None:
    with pytest.raises(SchemeError):
        detect(names)
    tracemalloc.start()
    for chosen in ALL:
        with pytest.raises(SchemeError):
            to_canonical(dict.fromkeys(names, np.zeros(1)), chosen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (32 << 20) + 20 * sum(map(len, names))


@given(st.lists(st.text(max_size=30), unique=True, max_size=8), st.sampled_from(ALL))
def test_no_name_raises_anything_but_a_scheme_error(names: list[str], chosen: Scheme) -> None:
    mapping = dict.fromkeys(names, np.zeros(1))
    for call in (
        lambda: detect(mapping),
        lambda: to_canonical(mapping, chosen),
        lambda: from_canonical(mapping, chosen),
    ):
        with pytest.raises(SchemeError):
            call()


def test_a_part_of_anything_is_explained_once() -> None:
    """Parts need not be three, nor the table one of ours."""
    halves = [Part(0, 2, "left"), Part(1, 2, "right")]
    table = {f"x/{part.name}": Rule("token_embedding", TRANSPOSED, part) for part in reversed(halves)}
    table |= {f"y{k}": Rule(name) for k, name in enumerate(ARCHITECTURES["nezha"]) if name != "token_embedding"}
    table = {name if "{i}" not in rule.name else f"{name}/{{i}}": rule for name, rule in table.items()}
    chosen = Scheme("halves", "nezha", "", "", table)
    x = _model(chosen)
    theirs = from_canonical(x, chosen)
    assert scheme.same_bits(theirs["x/left"], x["token_embedding"][:, :3].T)
    assert _same(to_canonical(theirs, chosen), x)
