"""The generator of SPACES: reading in pieces, the fast reader, generation in both dialects, labels, corpus, gradient, folder."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import FLOATING, HOST

import weights_io
from refimpl import backend, bert, copying, decoding, learning
from refimpl.errors import ConfigError, DtypeError, ShapeError, TextError, TokenError
from refimpl.inference import unilm
from refimpl.inference.unilm import Session
from refimpl.learning import seq2seq as pairs
from refimpl.positions import extend
from refimpl.spaces import published, seq2seq
from refimpl.spaces.published import order_of_partition, published_search
from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqDecoder, Seq2SeqWeights, generate
from refimpl.spaces.seq2seq_folder import load_seq2seq, save_seq2seq
from refimpl.trees import leaves, mapped
from validation import checks, truth
from validation.claims import CLAIMS, Setting
from validation.hashed import Hashed, recorded

SETTING = Setting(backend.get("numpy"))
INNER = bert.BertConfig(11, 8, 3, 2, 12, max_position_embeddings=24)
BERT = Seq2SeqConfig(INNER, 2, 3)
NEZHA = dataclasses.replace(INNER, max_position_embeddings=None, clip=2)
CONFIGS = {
    "bert": BERT,
    "bert4keras": Seq2SeqConfig(
        dataclasses.replace(INNER, residual_attention="sum", activation="tanh"), 2, 3, "bert4keras"
    ),
    "nezha": Seq2SeqConfig(NEZHA, 2, 3, "bert4keras-0.9"),
    "nezha-mean": Seq2SeqConfig(dataclasses.replace(NEZHA, residual_attention="mean"), 2, 3),
    "segmentless": Seq2SeqConfig(dataclasses.replace(INNER, type_vocab_size=0), 2, 3),
}
SOURCE = [2, 5, 0, 6, 7, 5, 0, 8, 3]
TARGETS = [[2, 5, 0, 8, 4, 6], [2, 0, 9, 5, 0, 1]]


def _weights(config: Seq2SeqConfig, dtype: str = "float64", seed: int = 0) -> Seq2SeqWeights:
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(float(name.endswith("scale")), 0.2 if "norm" in name else 0.5, shape).astype(dtype)
        for name, shape in Seq2SeqWeights.shapes(config).items()
    }
    return Seq2SeqWeights.from_named(arrays, config)


def _whole(weights, config):
    """Token and tag logits after each token of the targets, read together with the source."""
    ids = [[*SOURCE, *target] for target in TARGETS]
    found = seq2seq.logits(weights, config, ids, [[0] * len(SOURCE) + [1] * len(TARGETS[0])] * 2)
    return [part[:, len(SOURCE) :, :] for part in found]


def _in_pieces(decoder, cuts=(1, 2, 3, 4, 5)):
    """The same, of the last token of each piece; rows are exchanged before the last but one, and again."""
    steps, state, rows = [], None, [0, 1]
    for begin, end in zip((0, *cuts), (*cuts, len(TARGETS[0])), strict=True):
        if end == len(TARGETS[0]) - 1:
            state, rows = decoder.select(state, [1, 0]), [1, 0]
        piece = [TARGETS[row][begin:end] for row in rows]
        said, state = decoder.start(piece) if begin == 0 else decoder.advance(piece, state)
        steps.append([part[rows] if isinstance(part, np.ndarray) else part for part in said])
    return [np.stack([step[part] for step in steps], axis=1) for part in (0, 1)], [*cuts, len(TARGETS[0])]


def _apart(ours, meant):
    """The largest difference, as a part of the largest number."""
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(ours, meant, strict=True))


# --- reading --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5), (3,)])
@pytest.mark.parametrize("name", CONFIGS)
def test_reading_in_pieces_is_reading_at_once(name, cuts):
    """The same function: in balls of 128 bits the two enclosures meet everywhere, and are narrower than 10⁻²⁰."""
    config = CONFIGS[name]
    with truth.precision(128):
        weights = mapped(truth.balls, _weights(config))
        whole = _whole(weights, config)
        found, ends = _in_pieces(Seq2SeqDecoder(weights, config, SOURCE), cuts)
    for ours, theirs in zip(found, whole, strict=True):
        meant = theirs[:, [end - 1 for end in ends]]
        assert all(a.overlaps(b) for a, b in zip(ours.ravel(), meant.ravel(), strict=True))
        assert max(float(ball.rad()) for ball in ours.ravel()) < 1e-20


@pytest.mark.parametrize("system", FLOATING)
def test_reading_in_pieces_on_every_array_library(system):
    dtype = system.dtypes[-1]
    weights = mapped(lambda a: system.floats(a, dtype), _weights(BERT))
    whole = [np.asarray(system.back(part)) for part in _whole(weights, BERT)]
    decoder = Seq2SeqDecoder(weights, BERT, SOURCE)
    said, state = decoder.start([target[:2] for target in TARGETS])
    assert str(said[0].dtype).endswith(dtype)
    said, state = decoder.advance([target[2:3] for target in TARGETS], decoder.select(state, [0, 1]))
    limit = 1e-13 if dtype == "float64" else 2.0**-18
    assert _apart([np.asarray(system.back(part)) for part in said], [part[:, 2] for part in whole]) <= limit
    assert [each.ids for each in generate(weights, BERT, SOURCE, beams=2, max_new_tokens=4)] == [
        each.ids for each in generate(mapped(np.float64, _weights(BERT)), BERT, SOURCE, beams=2, max_new_tokens=4)
    ]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_fast_reader_is_the_definitions(name, small, monkeypatch):
    """In float64 within 10⁻¹³ of the largest (3 layers of some 60 roundings each are 2·10⁻¹⁴); in float32 no further from the definition in float64
    than four times the definition in float32 is, and one roundoff."""
    if small:
        for number in ("SCORES", "HIDDEN", "ROOM"):
            monkeypatch.setattr(unilm, number, 1 if number == "ROOM" else 40)
    config = CONFIGS[name]
    exact = _weights(config)
    assert _apart(_in_pieces(Session(exact, config).reading(SOURCE))[0], _whole(exact, config)) <= 1e-13
    assert (
        _apart(_in_pieces(Session(exact, config).reading(SOURCE), (4,))[0], _last_two(_whole(exact, config))) <= 1e-13
    )
    narrow = mapped(lambda a: a.astype(np.float32), exact)
    meant = _whole(mapped(lambda a: a.astype(np.float64), narrow), config)
    found, theirs = (
        _in_pieces(decoder)[0]
        for decoder in (Session(narrow, config).reading(SOURCE), Seq2SeqDecoder(narrow, config, SOURCE))
    )
    assert _apart(found, meant) <= 4 * _apart(theirs, meant) + 2.0**-24
    assert {part.dtype for part in found} == {np.dtype(np.float32)}


def _last_two(whole):
    return [part[:, [3, 5]] for part in whole]


def test_a_state_can_be_continued_twice():
    """What one continuation writes no other sees, bit for bit."""
    reading = Session(_weights(BERT), BERT).reading(SOURCE)
    _, state = reading.start([[2], [2]])
    _, later = reading.advance([[5], [6]], state)
    (first, _), _ = reading.advance([[7], [7]], later)
    reading.advance([[9], [9]], state)
    (again, _), _ = reading.advance([[7], [7]], later)
    assert np.array_equal(first, again)


def test_a_hidden_token_is_seen_where_it_stands_first():
    config, source = CONFIGS["nezha"], [0, 5, 0, 3]
    weights = _weights(config)
    whole = seq2seq.logits(weights, config, [[*source, 2, 5]], [[0] * 4 + [1, 1]])
    for decoder in (Seq2SeqDecoder(weights, config, source), Session(weights, config).reading(source)):
        assert _apart(decoder.start([[2, 5]])[0], [part[:, -1] for part in whole]) <= 1e-13


def test_a_longer_table_and_relative_positions_go_on():
    """Sources longer than the 24 positions that there were: by hierarchical positions, and by relative ones, which have no end."""
    source = [2, *([5, 6, 7, 8] * 12), 3]
    longer = dataclasses.replace(BERT, bert=dataclasses.replace(INNER, max_position_embeddings=80))
    weights = _weights(BERT)
    extended = weights._replace(bert=extend(weights.bert, to=80))
    for config, each in ((longer, extended), (CONFIGS["nezha"], _weights(CONFIGS["nezha"]))):
        whole = seq2seq.logits(each, config, [[*source, 2, 5]], [[0] * 50 + [1, 1]])
        for decoder in (Seq2SeqDecoder(each, config, source), Session(each, config).reading(source)):
            said, _ = decoder.start([[2, 5]])
            assert _apart(said, [part[:, -1] for part in whole]) <= 1e-13
    assert Seq2SeqDecoder(extended, longer, source).context == 30
    assert generate(extended, longer, source, beams=1)[0].ids


def test_padding_behind_a_row_changes_nothing():
    weights, row, segments = _weights(BERT), [*SOURCE, 2, 5], [0] * 9 + [1, 1]
    alone = seq2seq.logits(weights, BERT, [row], [segments])
    behind = seq2seq.logits(weights, BERT, [[*row, 7, 9]], [[*segments, 0, 0]], [[True] * 11 + [False] * 2])
    assert _apart([part[:, :11] for part in behind], alone) <= 1e-15


@pytest.mark.parametrize(
    "decoder", [Seq2SeqDecoder, lambda weights, config, source: Session(weights, config).reading(source)]
)
def test_readers_refuse(decoder):
    weights = _weights(BERT)
    with pytest.raises(TokenError, match=r"no position for a target(.|\n)*at most 23 tokens(.|\n)*got: +24"):
        decoder(weights, BERT, [5] * 24)
    with pytest.raises(TokenError, match=r"token id out of range(.|\n)*11"):
        decoder(weights, BERT, [5, 11])
    reading = decoder(weights, BERT, SOURCE)
    with pytest.raises(ShapeError, match=r"a target has padding(.|\n)*prompts of one length"):
        reading.start([[2, 5]], [[False, True]])
    _, state = reading.start([[2]])
    with pytest.raises(ShapeError, match="another batch"):
        reading.advance([[5], [5]], state)
    with pytest.raises((TokenError, ShapeError), match="runs past the position table"):
        reading.advance([[5] * 15], state)
    for rows, got in (([0, -1], "-1"), ([1], "1"), ([], "none")):
        with pytest.raises(TokenError, match=rf"no such row(.|\n)*each 0 <= row < 1\n  got: +{got}$"):
            reading.select(state, rows)


def test_sessions_refuse_what_they_cannot_compute_with():
    weights = _weights(BERT)
    with pytest.raises(DtypeError, match=r"float32 or float64(.|\n)*float16"):
        Session(mapped(lambda a: a.astype(np.float16), weights), BERT)
    with pytest.raises(ConfigError, match=r"computes on NumPy(.|\n)*Seq2SeqDecoder"):
        Session(mapped(HOST[4].to, weights), BERT)
    for other in (NEZHA, dataclasses.replace(INNER, num_hidden_layers=2), dataclasses.replace(INNER, vocab_size=12)):
        with pytest.raises(ConfigError, match="the weights do not fit the configuration"):
            Session(weights, dataclasses.replace(BERT, bert=other))
    with pytest.raises(ConfigError, match="lack this head"):
        Session(weights._replace(bert=weights.bert._replace(masked_lm=None)), BERT)


def test_a_cache_and_a_mask_do_not_go_together():
    weights = _weights(BERT)
    _, cache = bert.forward(weights.bert, INNER, [SOURCE])
    with pytest.raises(ConfigError, match="tokens that follow a cache have no padding"):
        bert.forward(weights.bert, INNER, [[5]], [[1]], cache=cache, mask=[[True]])


# --- generation -----------------------------------------------------------------------------------------------------------------------


def test_generation_is_beam_search_of_the_allowed():
    """Where all logits are compared, it is `refimpl.decoding.beam_search` with a `CopyDecoder`; with the fast reader it is the same."""
    weights = _weights(BERT)
    weights = weights._replace(tags=weights.tags._replace(bias=np.array([-3.0, 0.0, 1.0])))
    found = generate(weights, BERT, SOURCE, beams=3, max_new_tokens=9, k=None)
    decoder = copying.CopyDecoder(Seq2SeqDecoder(weights, BERT, SOURCE), SOURCE)
    meant = decoding.beam_search(decoder, [2], beams=3, max_new_tokens=9, stop=[3])
    assert [(each.ids, each.score) for each in found] == [(each.ids, each.score) for each in meant]
    assert any(copying.INSIDE in each.tags for each in found)
    fast = generate(
        weights, BERT, SOURCE, beams=3, max_new_tokens=9, k=None, decoder=Session(weights, BERT).reading(SOURCE)
    )
    assert [(each.ids, each.tags, each.places) for each in fast] == [
        (each.ids, each.tags, each.places) for each in found
    ]


def test_without_copying_tags_have_no_part():
    weights = _weights(BERT)
    bent = weights._replace(tags=weights.tags._replace(bias=np.array([0.0, 99.0, 0.0])))
    free, other = (generate(each, BERT, SOURCE, beams=2, max_new_tokens=6, copy=False) for each in (weights, bent))
    assert free == other
    assert {tag for each in free for tag in each.tags} == {0}
    assert {place for each in free for place in each.places} == {None}
    assert generate(bent, BERT, SOURCE, beams=2, max_new_tokens=6) != free


def test_of_one_beam_the_k_largest_do_not_matter_and_of_several_they_do():
    """A candidate beyond the k largest of a row is no candidate; what is compared in the softmax changes the score."""
    models = [Hashed(case, 12, 1) for case in range(30)]
    config = Seq2SeqConfig(bert.BertConfig(12, 2, 1, 1), 10, 11)

    def told(model, beams, k):
        return generate(None, config, [0, 1, 2, 11], beams=beams, max_new_tokens=6, k=k, decoder=model)[0]

    assert all(told(model, 1, 2).ids == told(model, 1, None).ids for model in models)
    assert all(
        told(model, 1, 2).score > told(model, 1, None).score or 0 not in told(model, 1, None).tags for model in models
    )
    assert any(told(model, 4, 1).ids != told(model, 4, None).ids for model in models)


def test_places_are_the_leftmost_of_the_whole_span():
    assert seq2seq.places_of([1, 2, 3, 1, 2, 4], [1, 2, 4, 9, 2, 1], [1, 2, 2, 0, 1, 1]) == [3, 4, 5, None, 1, 0]
    assert seq2seq.places_of([1, 2], [2, 1, 7], [1, 2, 0]) == [None, None, None]
    assert seq2seq.places_of([1, 2], [1, 2], [0, 2]) == [None, 1]
    assert seq2seq.places_of([1], [], []) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ConfigError, r"k must be a whole number(.|\n)*got: +0"),
        ({"beams": 0}, ConfigError, "beams must be a whole number"),
        ({"dialect": "released"}, ConfigError, r"unknown dialect(.|\n)*corrected, published(.|\n)*'released'"),
        ({"max_new_tokens": 15}, TokenError, r"runs past the position table(.|\n)*<= 14 after"),
        (
            {"max_new_tokens": 15, "dialect": "published"},
            TokenError,
            r"runs past the position table(.|\n)*<= 14 after this source",
        ),
        ({"dialect": "published", "k": 3}, ConfigError, r"no such option(.|\n)*k = 10, copy=True(.|\n)*k = 3"),
        ({"dialect": "published", "copy": False}, ConfigError, r"no such option(.|\n)*copy=False"),
        ({"dialect": "published", "length_penalty": 1.0}, ConfigError, r"no such option(.|\n)*length_penalty=1.0"),
        ({"dialect": "published", "beams": 12}, ConfigError, r"more beams than tokens(.|\n)*up to 11"),
        ({"dialect": "published", "beams": 0}, ConfigError, r"options out of range(.|\n)*beams = 0"),
    ],
)
def test_generation_refuses(options, error, message):
    with pytest.raises(error, match=message):
        generate(_weights(BERT), BERT, SOURCE, **options)


class _Spoiled(Hashed):
    """A model one of whose logits is no number."""

    spoiled = float("nan")

    def scores(self, text):
        logits, tags = super().scores(text)
        logits[3] = self.spoiled
        return logits, tags


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"k": None}, {"copy": False}, {"dialect": "published"}])
def test_logits_that_are_no_numbers_are_refused(options, spoiled):
    """Also where the k largest alone are looked at, which NaN is none of."""
    config, model = Seq2SeqConfig(bert.BertConfig(14, 2, 1, 1), 12, 13), _Spoiled(3, 14, 1)
    model.spoiled = spoiled
    with pytest.raises(TokenError, match=r"the next token cannot be chosen(.|\n)*logits of row 0"):
        generate(None, config, [12, 1, 2, 3, 13], beams=2, max_new_tokens=4, decoder=model, **options)


def test_a_nezha_must_be_told_where_to_end():
    with pytest.raises(ConfigError, match=r"no last position(.|\n)*say how many"):
        generate(_weights(CONFIGS["nezha"]), CONFIGS["nezha"], SOURCE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_token_id": 11}, r"no such token(.|\n)*start_token_id < vocab_size = 11(.|\n)*got: +11"),
        ({"end_token_id": True}, r"no such token(.|\n)*end_token_id"),
        ({"bert_dialect": "keras"}, "unknown dialect"),
        ({"bert_dialect": bert.Dialect()}, r"names its dialect(.|\n)*bert4keras-0.9"),
        ({"bert": dataclasses.replace(INNER, type_vocab_size=1)}, "source and target need a segment each"),
        ({"bert": dataclasses.replace(INNER, position_offset=2)}, r"positions follow its source's(.|\n)*got: +2"),
    ],
)
def test_configurations_refuse(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(BERT, **changes)


def test_initial_weights_follow_from_the_seed():
    one, same, other = (seq2seq.initial_seq2seq(BERT, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(same), strict=True))
    assert not np.array_equal(one.tags.weight, other.tags.weight)
    assert {array.dtype for array in leaves(one)} == {np.dtype(np.float32)}
    assert 0.015 < one.bert.token_embedding.std() < 0.025
    assert np.all(one.bert.embedding_norm.scale == 1) and np.all(one.tags.bias == 0)
    with pytest.raises(ConfigError, match="cannot learn in that dtype"):
        seq2seq.initial_seq2seq(BERT, dtype="float16")
    with pytest.raises(ConfigError, match=r"missing: masked_lm.bias(.|\n)*unexpected: other"):
        named = one.named()
        Seq2SeqWeights.from_named(
            {n: a for n, a in named.items() if n != "masked_lm.bias"} | {"other": named["tags.bias"]}, BERT
        )


# --- the published decoding -------------------------------------------------------------------------------------------------------------


def test_the_recorded_texts_of_the_released_decoder():
    assert checks._spaces_decoding(SETTING).verdict == "equal"


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("order_of_partition", lambda f, values, kth: sorted(range(len(values)), key=values.__getitem__)),
        ("masked_logits", lambda f, z, allowed, dialect: f(z, allowed)),
        (
            "copy_step",
            lambda f, *args, dialect, **options: f(
                args[0], [0 * s for s in args[1]], *args[2:], dialect=dialect, **options
            ),
        ),
    ],
)
def test_that_comparison_can_fail(name, replacement, monkeypatch):
    original = getattr(published, name)
    monkeypatch.setattr(published, name, lambda *a, **k: replacement(original, *a, **k))
    assert checks._spaces_decoding(SETTING).verdict == "differs"


def test_carried_states_are_what_is_corrected():
    """With the states carried the tags of a text are those that its own scores say; as released, not always; with one beam there is no difference."""
    wrong = {False: 0, True: 0}
    for case in recorded()[:80]:
        ends = {"start": case.model.vocabulary - 2, "end": case.model.vocabulary - 1, "max_new_tokens": case.most}
        found = {c: published_search(case.model, case.source, beams=case.beams, carried=c, **ends) for c in wrong}
        assert case.beams > 1 or found[True] == found[False]
        for carried, text in found.items():
            own = _own_tags(case.model, text.ids, case.source)
            wrong[carried] += own != text.tags
    assert wrong[True] == 0 < wrong[False]


def _own_tags(model, ids, source):
    tags, state = [], 0
    for place in range(len(ids)):
        scores = model.scores([model.vocabulary - 2, *ids[:place]])[1][None]
        _, after = copying.copy_step(scores, [state], source, [ids[:place]], vocab_size=model.vocabulary)
        state = int(after[0])
        tags.append(min(state, 2))
    return tags


@given(st.lists(st.integers(0, 6).map(float), min_size=1, max_size=60), st.data())
def test_a_partition_is_one(values, data):
    kth = data.draw(st.integers(0, len(values) - 1))
    order = order_of_partition(values, kth)
    ordered = [values[place] for place in order]
    assert sorted(order) == list(range(len(values)))
    assert ordered[kth] == sorted(values)[kth]
    assert max(ordered[: kth + 1]) <= ordered[kth] <= min(ordered[kth:])


def test_orders_of_numpy_one():
    """As NumPy 1.24.4 leaves them; the last goes through the median of medians."""
    assert order_of_partition([3.0, 1, 2, 5, 4, 0, 2, 2, 2], 5) == [1, 5, 6, 7, 8, 2, 0, 3, 4]
    assert order_of_partition([0.0] * 8, 4) == [5, 3, 6, 0, 4, 2, 1, 7]
    assert order_of_partition([1.0, 3, 2, 3], 3) == [0, 1, 2, 3]
    first = [85, 86, 82, 89, 88, 78, 84, 83, 87, 81, 80, 79, 77, 76, 74, 75, 73, 72, 70, 71, 69, 68, 67, 66]
    assert order_of_partition([float(i) for i in range(90, 0, -1)], 20)[:24] == first
    rough = [float((85 - i) * 7 + i * i * 11 % 17) for i in range(85)]
    first = [78, 82, 84, 80, 81, 83, 79, 77, 76, 75, 74, 73, 71, 72, 70, 68, 69, 67, 66, 64]
    assert order_of_partition(rough, 17)[:20] == first
    with pytest.raises(ConfigError, match=r"no such rank(.|\n)*kth < 2"):
        order_of_partition([1.0, 2.0], 2)


def test_rows_that_all_ended_too_early_are_reported():
    class Ending(Hashed):
        def scores(self, text):
            logits, _ = super().scores(text)
            return logits + 50 * (np.arange(self.vocabulary) >= self.vocabulary - 1), np.array([9.0, 0, 0])

    with pytest.raises(TokenError, match=r"every row has ended(.|\n)*min_length"):
        published_search(Ending(0, 12), [1, 11], start=10, end=11, beams=1, max_new_tokens=9, min_length=4)


def test_float16_is_widened_before_a_probability_meets_the_smallest():
    """10⁻¹² is 0 in float16, and its logarithm no number: the answer is that of the same logits in float32."""
    for case in range(9):
        found = [
            published_search(
                Hashed(case, 14, 1, lambda a, dtype=dtype: np.asarray(a, np.float16).astype(dtype)),
                [12, case % 3, 1, 2, 1, 13],
                start=12,
                end=13,
                beams=3,
                max_new_tokens=8,
            )
            for dtype in (np.float16, np.float32)
        ]
        assert found[0].ids == found[1].ids
        assert abs(found[0].score - found[1].score) < 1e-5


@pytest.mark.parametrize(
    ("identifier", "module", "name", "replacement"),
    [
        ("COPY-2.generate", copying, "select_states", lambda f, states, rows: f(states, [0] * len(rows))),
        ("COPY-2.generate", copying, "_continues", lambda f, x, y, m: f(x, y, m - 1)),
        ("COPY-2.generate", seq2seq, "places_of", lambda f, x, ids, tags: f(x, ids, [t and 1 for t in tags])),
        ("SEQ2SEQ-1", bert, "_continuing", lambda f, *a: (given := f(*a))._replace(seen=given.seen | True)),
        ("SEQ2SEQ-2", bert, "unilm_mask", lambda f, segments: f(segments) | (segments[:, None, None, :] == 1)),
        ("SEQ2SEQ-2", bert, "unilm_mask", lambda f, segments: f(segments) & (segments[:, None, :, None] == 0)),
        ("COPY-2.generate.published", seq2seq, "published_search", lambda f, *a, **k: f(*a, **k, carried=True)),
    ],
)
def test_the_claims_can_fail(identifier, module, name, replacement, monkeypatch):
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: replacement(original, *a, **k))
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


# --- labels, corpus, gradient -----------------------------------------------------------------------------------------------------------

WORDS = st.lists(st.integers(4, 7), min_size=1, max_size=8)


def test_the_first_word_of_a_copied_beginning_is_a_beginning():
    """SPACES labels it I, after the [CLS] that is given; a decoding begins in state 0, where there is no I."""
    source, target = [2, 5, 6, 3], [2, 5, 6, 3]
    assert seq2seq.training_labels(source, target) == [0, 1, 2, 2, 1, 2, 2]
    assert seq2seq.training_labels(source, target, "published") == [1, 2, 2, 2, 2, 2, 2]


@given(WORDS, WORDS)
def test_labels_of_the_dialects(source, target):
    source, target = [2, *source, 3], [2, *target, 3]
    ours = seq2seq.training_labels(source, target)
    labels = copying.copy_labels(source, target[1:])
    assert ours == labels.source + labels.target
    assert ours[len(source)] != copying.INSIDE
    assert ours[-1] != copying.OUTSIDE  # the end token is the source's
    assert seq2seq.training_labels(source, target, "published") == copying.sequence_labels(source, target)
    assert len(ours) == len(source) + len(target) - 1


PAIRS = [
    ([2, 5, 6, 7, 8, 3], [2, 6, 7, 3]),
    ([2, 9, 5, 3], [2, 9, 3]),
    (([2, 4, 3], [2, 4, 4, 4, 3]), [2, 4, 3]),
    ([2, 8, 3], [2, 8, 8, 3]),
]


def _corpus(**options):
    return pairs.PairCorpus(PAIRS, **({"length": 12, "rows": 2} | options))


def test_a_rectangle_of_a_corpus():
    first, second = _corpus(masking=0.0, form="padded").batches()
    assert first.ids.tolist() == first.said.tolist() == [[2, 5, 6, 7, 8, 3, 2, 6, 7, 3], [2, 9, 5, 3, 2, 9, 3, 0, 0, 0]]
    assert first.segments.tolist() == [[0] * 6 + [1] * 4, [0] * 4 + [1] * 3 + [0] * 3]
    assert first.labels.tolist() == [[0, 0, 1, 2, 0, 1, 1, 2, 1], [0, 1, 0, 1, 1, 1, 0, 0, 0]]
    assert first.real.tolist() == [[True] * 10, [True] * 7 + [False] * 3]
    assert first.counted.sum(1).tolist() == [3, 2]
    assert first.tagged.sum(1).tolist() == [9, 6]
    assert second.ids[0].tolist() == [2, 4, 3, 2, 4, 3, 0]
    assert pairs.trained([first, second]) == (5 + 5, 15 + 5 + 6)


def test_a_step_follows_from_its_place_and_masks_what_is_read():
    corpus, again = _corpus(masking=0.5), _corpus(masking=0.5)
    different = 0
    for epoch, position in itertools.product(range(6), range(2)):
        (batch,), (same,) = corpus.step(epoch, position), again.step(epoch, position)
        assert all(np.array_equal(a, b) for a, b in zip(batch, same, strict=True))
        different += int((batch.ids != batch.said).sum())
        for ids, said, segments, labels, real in zip(*batch, strict=True):
            n, m = int((segments == 0)[real].sum()), int(segments.sum())
            assert set(ids[real].tolist()) <= set(said[real].tolist())
            assert labels[: n + m - 1].tolist() == seq2seq.training_labels(ids[:n], said[n : n + m])
    assert different > 20
    assert [corpus.after(0, 0), corpus.after(0, 1), corpus.steps(3)] == [(0, 1), (1, 0), 2]
    drawn = [batch for epoch in range(20) for position in range(2) for batch in corpus.step(epoch, position)]
    lengths = {int(real.sum()) for batch in drawn for real in batch.real}
    assert lengths == {10, 7, 6, 8}  # of the third pair, each source is drawn sometimes
    assert json.loads(json.dumps(corpus.described())) == corpus.described() != _corpus(masking=0.4).described()


@pytest.mark.parametrize("form", pairs.FORMS)
def test_what_makes_no_whole_rectangle_is_another_in_every_epoch(form):
    """The longest row, which is sorted to the end, comes as often as others: in 3 of 4 of 60 epochs, within four deviations."""
    texts = [([2, *[5] * n, 3], [2, 5, 3]) for n in (1, 2, 3, 9)]
    corpus = pairs.PairCorpus(texts, length=20, rows=3, form=form, masking=0.0)
    steps = [corpus.step(epoch, 0)[0] for epoch in range(60)]
    assert abs(sum(batch.ids.shape[1] == 14 for batch in steps) - 45) <= 4 * (60 * 0.75 * 0.25) ** 0.5
    assert corpus.steps(0) == 1


def test_masking_replaces_its_share_by_tokens_of_the_row():
    """Of 20,000 tokens that are all different a part p (1 - 1/n) changes, within five deviations of a binomial."""
    ids = list(range(20_000))
    masked = pairs.random_masking(ids, np.random.default_rng(0))
    changed = sum(a != b for a, b in zip(ids, masked, strict=True))
    assert abs(changed - 3000) < 5 * (20_000 * 0.15 * 0.85) ** 0.5
    assert set(masked) <= set(ids)
    assert pairs.random_masking([5, 6], np.random.default_rng(0), 0.0) == [5, 6]


def test_pairs_are_cut_as_bert4keras_cuts_them():
    assert pairs.fitted([2, 4, 5, 6, 3], [2, 7, 8, 3], 7) == ([2, 4, 5, 3], [2, 7, 3])
    assert pairs.fitted([2, 4, 3], [2, 7, 3], 6) == ([2, 4, 3], [2, 7, 3])
    with pytest.raises(ConfigError, match="no pair is that short"):
        pairs.fitted([2, 3], [2, 3], 3)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (PAIRS, {"masking": 1.0}, ConfigError, r"options make no sense(.|\n)*masking = 1.0"),
        (PAIRS, {"form": "packed", "rows": 0}, ConfigError, r"rows = 0, form = 'packed'"),
        (PAIRS, {"dialect": "own"}, ConfigError, "dialect = 'own'"),
        (PAIRS, {"rows": 5}, ConfigError, r"too few for a step(.|\n)*5 pairs(.|\n)*got: +4"),
        (PAIRS, {"length": 9}, TextError, r"number 0(.|\n)*9 together at most(.|\n)*6 and 4 tokens(.|\n)*fitted"),
        ([([], [2, 3])], {}, TextError, "a pair does not fit"),
        ([([2, 3], [2])], {}, TextError, "a pair does not fit"),
        ([([2, -1], [2, 3])], {}, TextError, r"not of token ids(.|\n)*number 0"),
    ],
)
def test_a_corpus_refuses(texts, options, error, message):
    with pytest.raises(error, match=message):
        pairs.PairCorpus(texts, **({"length": 12, "rows": 2} | options))
    if texts is PAIRS and "form" in options:
        with pytest.raises(ConfigError, match=r"no such step(.|\n)*from 0 to 1"):
            _corpus().step(0, 2)
        with pytest.raises(ConfigError, match="no such epoch"):
            _corpus().step(-1, 0)


def test_the_gradient_refuses_another_dialect_before_the_first_step():
    with pytest.raises(
        ConfigError, match=r"unknown dialect(.|\n)*Seq2SeqGradient(.|\n)*corrected, published(.|\n)*'x'"
    ):
        pairs.Seq2SeqGradient(BERT, dialect="x")


@pytest.mark.parametrize("dialect", seq2seq.dialects)
def test_the_gradient_of_rectangles_is_that_of_one(dialect):
    """The loss is a mean over a step: rows in two rectangles or in one, within 10⁻¹³ of the largest."""
    weights, gradient = _weights(BERT), pairs.Seq2SeqGradient(BERT, k=3, dialect=dialect)
    two = _corpus(dialect=dialect, masking=0.0, length=20).batches(2)
    (one,) = _corpus(dialect=dialect, masking=0.0, length=20).batches(4)
    parts, bars = gradient(weights, tuple(two))
    whole, all_bars = gradient(weights, (one,))
    meant = seq2seq.loss(
        weights, BERT, one.ids, one.segments, one.labels, one.real, said=one.said, k=3, dialect=dialect
    )
    assert abs(parts - whole) <= 1e-13 * abs(whole)
    assert abs(meant - whole) <= 1e-13 * abs(whole)
    largest = max(float(np.max(np.abs(b))) for b in leaves(all_bars))
    assert all(np.max(np.abs(a - b)) <= 1e-13 * largest for a, b in zip(leaves(bars), leaves(all_bars), strict=True))


def test_training_learns_to_copy_and_goes_on_from_a_checkpoint(tmp_path):
    config = Seq2SeqConfig(bert.BertConfig(12, 16, 1, 2, 32, max_position_embeddings=24), 2, 3)
    rng = np.random.default_rng(0)
    texts = [rng.integers(4, 12, 6).tolist() for _ in range(32)]
    corpus = pairs.PairCorpus([([2, *text, 3], [2, *text[:3], 3]) for text in texts], length=14, rows=16, masking=0.1)
    gradient = pairs.Seq2SeqGradient(config)
    training = learning.Training(
        gradient, corpus, learning.AdamW(), learning.Schedule(1e-2, "constant", steps=40), about=gradient.described()
    )
    losses = []
    start = training.start(seq2seq.initial_seq2seq(config, dtype="float64"))
    whole = training.run(start, 40, watch=lambda _, taken: losses.append(taken.loss))
    assert np.mean(losses[-5:]) < 0.75 * losses[0]
    training.run(start, 11, checkpoint=tmp_path / "training.safetensors")
    resumed = training.run(training.resume(tmp_path / "training.safetensors", start.parameters), 40)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(whole.parameters), leaves(resumed.parameters), strict=True))


# --- folders --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "bert4keras", "nezha", "nezha-mean", "segmentless"])
def test_a_folder_holds_the_model_bit_for_bit(name, tmp_path):
    config = CONFIGS[name]
    weights = _weights(config, "float32")
    save_seq2seq(tmp_path / "model", weights, config)
    found, its = load_seq2seq(tmp_path / "model", backend="numpy")
    assert its == config
    assert all(np.array_equal(a, b) for a, b in zip(leaves(weights), leaves(found), strict=True))
    with weights_io.open(tmp_path / "model" / "model.safetensors") as file:
        assert file["tags.weight"].shape == (3, 8)
        assert "bert.encoder.layer.2.attention.self.value.weight" in file
    if name == "bert":
        longer, its = load_seq2seq(tmp_path / "model", backend="numpy", dtype="float64", positions=100)
        assert (its.context, longer.bert.position_embedding.shape, longer.tags.bias.dtype) == (
            100,
            (100, 8),
            np.float64,
        )


def test_float16_in_a_folder_is_widened_exactly(tmp_path):
    half = mapped(lambda a: a.astype(np.float16), _weights(BERT))
    save_seq2seq(tmp_path, half, BERT)
    found, _ = load_seq2seq(tmp_path, backend="numpy")
    assert all(np.array_equal(a.astype(np.float32), b) for a, b in zip(leaves(half), leaves(found), strict=True))
    assert {array.dtype for array in leaves(found)} == {np.dtype(np.float32)}


def test_numbers_that_are_no_parameters_are_refused(tmp_path):
    weights = _weights(BERT)
    with pytest.raises(DtypeError, match=r"weights must be real floating point(.|\n)*int64"):
        save_seq2seq(tmp_path, mapped(lambda a: a.astype(int), weights), BERT)
    save_seq2seq(tmp_path, mapped(lambda a: a + 1e6, weights), BERT)
    with pytest.raises(ConfigError, match=r"not finite: token_embedding"):
        load_seq2seq(tmp_path, backend="numpy", dtype="float16")
    with weights_io.open(tmp_path / "model.safetensors") as file:
        tensors = {name: file[name].astype(int) for name in file}
    weights_io.save(tmp_path / "model.safetensors", tensors)
    with pytest.raises(DtypeError, match=r"must be real floating point(.|\n)*load_seq2seq(.|\n)*int64"):
        load_seq2seq(tmp_path, backend="numpy")


def _change(folder, **fields):
    path = folder / "config.json"
    given = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in given.items() if value is not None}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "gpt2"}, r"no generator's configuration(.|\n)*model_type 'gpt2'"),
        ({"eos_token_id": None}, r"no generator's configuration(.|\n)*no eos_token_id"),
        ({"bos_token_id": 99}, r"no such token(.|\n)*99"),
        ({"hidden_size": None}, r"lacks sizes(.|\n)*hidden_size"),
        ({"vocab_size": 12}, r"wrong shape(.|\n)*token_embedding(.|\n)*\(12, 8\), got \(11, 8\)"),
        ({"model_type": "nezha"}, "position_embeddings"),
        ({"bert_dialect": ["x"]}, "unknown dialect"),
    ],
)
def test_folders_that_do_not_fit_are_refused(fields, message, tmp_path):
    save_seq2seq(tmp_path, _weights(BERT, "float32"), BERT)
    _change(tmp_path, **fields)
    with pytest.raises((ConfigError, weights_io.WeightsError), match=message):
        load_seq2seq(tmp_path, backend="numpy")


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json cannot be read"):
        load_seq2seq(tmp_path, backend="numpy")
    with pytest.raises(ConfigError, match="unknown dtype"):
        load_seq2seq(tmp_path, backend="numpy", dtype="int8")
    save_seq2seq(tmp_path, _weights(BERT, "float32"), BERT)
    with weights_io.open(tmp_path / "model.safetensors") as file:
        tensors = {name: file[name].copy() for name in file if name != "tags.bias"}
    weights_io.save(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ConfigError, match=r"no head of tags(.|\n)*without tags.bias"):
        load_seq2seq(tmp_path, backend="numpy")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_seq2seq(tmp_path / "file" / "model", _weights(BERT, "float32"), BERT)
