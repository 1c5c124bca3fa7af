"""Claims SEQ2SEQ-1 and SEQ2SEQ-2: what decoding takes for granted of the generator of SPACES, a UniLM BERT or NEZHA with copy tags.

Equality (1) is decided as GPT2-2 is: two enclosures of radius < 1e-20 that meet, and in floats two evaluations within their two sampled budgets.
Independence (2) is proved by tracing what each logit can depend on (`validation.dependence`), where nothing overflows.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.bert import BertConfig
from refimpl.number_system import namespace
from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqDecoder, Seq2SeqWeights, logits
from validation import dependence, perturbed, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "L. Dong et al., UniLM, arXiv 1905.03197, section 2.3; J. Wei et al., NEZHA, arXiv 1909.00204; used by every decoder with a cache"
DTYPES = ("float32", "float64")
RADIUS, BITS = 1e-20, 384
VOCABULARY, READ, SAID = 7, [2, 4, 0, 5, 4, 3], [2, 4, 0, 6]
INNER = BertConfig(VOCABULARY, 4, 2, 2, 6, max_position_embeddings=12)
CONFIGS = {
    "BERT": Seq2SeqConfig(INNER, 2, 3),
    "BERT with residual attention": Seq2SeqConfig(dataclasses.replace(INNER, residual_attention="sum"), 2, 3),
    "NEZHA": Seq2SeqConfig(dataclasses.replace(INNER, max_position_embeddings=None, clip=2), 2, 3, "bert4keras-0.9"),
}


def _arrays(config: Seq2SeqConfig, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(float(name.endswith("scale")), 0.2 if "norm" in name else 0.6, shape)
        for name, shape in Seq2SeqWeights.shapes(config).items()
    }


def _placed(arrays: dict[str, Any], config: Seq2SeqConfig, place: Callable[[Any], Any]) -> Seq2SeqWeights:
    return Seq2SeqWeights.from_named({name: place(array) for name, array in arrays.items()}, config)


def _joined(said: tuple[Any, Any]) -> Any:
    """Token and tag logits side by side."""
    return namespace(*said).concat(said, axis=-1)


def _at_once(weights: Seq2SeqWeights, config: Seq2SeqConfig, place: Callable[[Any], Any] = np.asarray) -> Any:
    """(1, t, vocab + 3): all that is said after the tokens of the target."""
    segments = [[0] * len(READ) + [1] * len(SAID)]
    both = logits(weights, config, place(np.array([[*READ, *SAID]])), place(np.array(segments)))
    return _joined(both)[:, len(READ) :, :]


def _in_pieces(weights: Seq2SeqWeights, config: Seq2SeqConfig) -> Any:
    """The same through the cache: two tokens, then one by one; what is said after the first is asked for by itself."""
    decoder = Seq2SeqDecoder(weights, config, READ)
    first, _ = decoder.start([SAID[:1]])
    found, state = decoder.start([SAID[:2]])
    said = [first, found]
    for token in SAID[2:]:
        found, state = decoder.advance([[token]], state)
        said.append(found)
    parts = [_joined(each)[:, None, :] for each in said]
    return namespace(*parts).concat(parts, axis=1)


def _budget(config: Seq2SeqConfig, arrays: dict[str, Any]) -> Any:
    """The sampled budget of what is said, as a multiple of the unit roundoff."""
    deviation = perturbed.sampled_deviation(
        lambda wrap: _at_once(_placed(arrays, config, wrap), config, wrap),
        roundoff=1.0,
        noise=perturbed.ReproducibleNoise,
    )
    return perturbed.sigmas(deviation.size) * deviation


@claim(
    "SEQ2SEQ-1",
    "reading a source once, and a target after it piece by piece with cached keys and values = reading both at once",
    source=SOURCE,
    method="a BERT, with residual attention too, and a NEZHA with a token that is hidden, 6 and 4 tokens: ball enclosures of radius < 1e-20 meet; "
    "floats within two sampled budgets",
    expected="not refuted",
    cases=len(CONFIGS) * len(SAID) * (VOCABULARY + 3),
)
def _cached(setting: Setting) -> Outcome:
    cases, worst, shown = 0, 0.0, ""
    for name, config in CONFIGS.items():
        arrays = _arrays(config, setting.seed)
        with truth.precision(BITS):
            weights = _placed(arrays, config, truth.balls)
            whole, pieces = _at_once(weights, config), _in_pieces(weights, config)
            meet = all(a.overlaps(b) for a, b in zip(whole.ravel(), pieces.ravel(), strict=True))
            radius = float(max(truth.radii(whole).max(), truth.radii(pieces).max()))
        if not meet:
            return Outcome("refuted", cases, f"{name}: enclosures do not meet")
        if not radius < RADIUS:
            return Outcome("not refuted", 0, f"undecided: radius {radius:.1e}")
        unit, place, back = _budget(config, arrays), setting.backend.asarray, setting.backend.to_numpy
        for dtype in DTYPES:
            narrow = {name: array.astype(dtype) for name, array in arrays.items()}
            weights = _placed(narrow, config, place)
            pair = (back(_at_once(weights, config, place)), back(_in_pieces(weights, config)))
            difference = np.abs(pair[0].astype(np.float64) - pair[1].astype(np.float64))
            multiple = float(np.max(difference / (2 * unit * tolerance.roundoff(dtype) + np.finfo(np.float64).tiny)))
            if not multiple <= 1:
                return Outcome("refuted", cases, f"{name}, {dtype}: {multiple:.2g} of two budgets", multiple)
            if multiple >= worst:
                worst, shown = multiple, f"{name}, {dtype} differs by {difference.max():.2g}"
        cases += whole.size
    return Outcome("not refuted", cases, f"balls meet; {shown}", worst)


def _traced(config: Seq2SeqConfig, seed: int) -> Any:
    """Tags of token and tag logits, (b, n, vocab + 3), where token t of row b carries tag n b + t; the second row has padding."""
    rng = np.random.default_rng(seed)
    weights = _placed(_arrays(config, seed), config, dependence.traced)
    tags = np.left_shift(np.uint64(1), np.arange(2 * LENGTH, dtype=np.uint64)).reshape(2, LENGTH)
    ids = dependence.traced(rng.integers(1, VOCABULARY, (2, LENGTH)), tags)
    said = logits(weights, config, ids, dependence.traced(SEGMENTS), dependence.traced(REAL))
    return np.concatenate([part.tags for part in said], axis=-1)


LENGTH = 8
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]])
REAL = np.array([[True] * 8, [True] * 6 + [False] * 2])


@claim(
    "SEQ2SEQ-2",
    "what is said at a token of the target depends on the source, on the target up to it, and on no other row; what is said at a token of the source "
    "depends on the source alone; for finite weights, where no intermediate value overflows",
    source=SOURCE,
    method="dependence traced on two rows, one of them padded, of the three models of SEQ2SEQ-1; each logit carries the tags of all that it may "
    "depend on, and no other",
    expected="proved",
    cases=len(CONFIGS) * int(REAL.sum()) * (VOCABULARY + 3),
)
def _independent(setting: Setting) -> Outcome:
    cases = 0
    for name, config in CONFIGS.items():
        dependence.tagged_branches.clear()
        tags = _traced(config, setting.seed)
        for b, t in zip(*np.nonzero(REAL), strict=True):
            source = int(np.argmax(SEGMENTS[b] == 1))
            seen = range(max(source, int(t) + 1))
            permitted = sum(1 << (LENGTH * int(b) + place) for place in seen)
            if any(int(tag) != permitted for tag in tags[b, t]):
                found = next(f"{int(tag):b}" for tag in tags[b, t] if int(tag) != permitted)
                return Outcome("refuted", cases, f"{name}: row {b}, token {t} carries {found}, not {permitted:b}")
            cases += tags[b, t].size
        if any(branch.taken for branch in dependence.tagged_branches):
            return Outcome("refuted", cases, f"{name}: a branch on data was taken")
    return Outcome("proved", cases, "every logit carries the tags of what it may see, and no other")
