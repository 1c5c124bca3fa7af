"""Claims COPY-1 to COPY-5: labels of copied spans, and decoding that copies them.

Labels and steps depend on which tokens are equal, and a step on the order of three scores. So all sequences up to a length over a small alphabet,
and all 13 weak orders of three scores, are a proof for those lengths; a search over models goes beyond them. What is compared with is written here
a second time, by enumeration: the longest of all common subsequences, substrings of the source, sets of tokens.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

import weights_io
from refimpl import copying, decoding
from refimpl.bert import BertConfig
from refimpl.copying import BEGIN, INSIDE, OUTSIDE
from refimpl.spaces.published import published_search
from refimpl.spaces.seq2seq import Seq2SeqConfig, generate
from validation import components
from validation.claims.registry import Outcome, Setting, claim
from validation.hashed import Hashed, mixed, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from refimpl.spaces.seq2seq import Generated

SOURCE = "J. Su, Scientific Spaces 8046 (2021), SPACES, section on BIO copy; github.com/bojone/SPACES at a545db3"
Tokens = tuple[int, ...]
SIZES = ((3, 4), (2, 6))  # alphabets, and the longest sequences over them
PAIRS = sum(sum(letters**n for n in range(longest + 1)) ** 2 for letters, longest in SIZES)


def _sequences(letters: int, longest: int, shortest: int = 0) -> list[Tokens]:
    return [s for n in range(shortest, longest + 1) for s in itertools.product(range(letters), repeat=n)]


def _is_subsequence(part: Tokens, whole: Tokens) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@functools.cache
def _subsequences(whole: Tokens) -> tuple[tuple[Tokens, Tokens], ...]:
    """Every choice of positions, longest first and of those the largest (read from the last) first, with the tokens there."""
    chosen = [p for n in range(len(whole), -1, -1) for p in itertools.combinations(range(len(whole)), n)]
    chosen = sorted(chosen, key=lambda p: (-len(p), tuple(-position for position in p[::-1])))
    return tuple((p, tuple(whole[position] for position in p)) for p in chosen)


@functools.cache
def _longest(source: Tokens, target: Tokens) -> Tokens:
    """The positions in `target` of its longest subsequences that `source` has too: the largest, read from the last."""
    return next(positions for positions, part in _subsequences(target) if _is_subsequence(part, source))


def _walked(source: Tokens, target: Tokens) -> tuple[tuple[int, int], ...]:
    """The pairs of the published walk, whose lengths are found by enumeration."""
    i, j, pairs = len(source), len(target), []
    while _longest(source[:i], target[:j]):
        if source[i - 1] == target[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif len(_longest(source[:i], target[: j - 1])) > len(_longest(source[: i - 1], target[:j])):
            j -= 1
        else:
            i -= 1
    return tuple(pairs[::-1])


def _spans(labels: Sequence[int], tokens: Tokens) -> list[Tokens]:
    """The tokens of every maximal run B I I ... ; an I that nothing precedes is a run of its own, which is wrong."""
    spans: list[Tokens] = []
    for before, label, token in zip((OUTSIDE, *labels), labels, tokens, strict=False):
        if label == INSIDE and before != OUTSIDE:
            spans[-1] = (*spans[-1], token)
        elif label != OUTSIDE:
            spans.append((token,))
    return spans


def _occurs(part: Tokens, whole: Tokens) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def _mislabelled(source: Tokens, target: Tokens) -> str:
    """What is wrong with the labels of one pair of sequences, or nothing."""
    pairs = tuple(copying.longest_common_subsequence(source, target))
    labels = copying.copy_labels(source, target)
    copied = [(label, token) for label, token in zip(labels.target, target, strict=True) if label != OUTSIDE]
    if tuple(j for _, j in pairs) != _longest(source, target):
        return f"positions {[j for _, j in pairs]}, the largest of a longest common subsequence are {_longest(source, target)}"
    if pairs != _walked(source, target):
        return f"pairs {pairs}, the walk has {_walked(source, target)}"
    if tuple(j for j, label in enumerate(labels.target) if label) != tuple(j for _, j in pairs):
        return "the labelled tokens are not those of the pairs"
    if [(label, t) for label, t in zip(labels.source, source, strict=True) if label != OUTSIDE] != copied:
        return "the source's labels are not those of the target"
    spans = _spans(labels.target, target)
    if not all(_occurs(span, source) for span in spans):
        return f"a span of {spans} is nowhere in the source"
    apart = sum(a != (c[0] + 1, c[1] + 1) for c, a in itertools.pairwise([(-2, -2), *pairs]))
    wrong = any(b == OUTSIDE and a == INSIDE for b, a in itertools.pairwise((OUTSIDE, *labels.target)))
    return "I after O" if wrong else "" if len(spans) == apart else f"{len(spans)} spans for {apart} runs of the pairs"


@claim(
    "COPY-1",
    "the labels are those of a longest common subsequence, the one whose target positions are largest, read from the last; every maximal span "
    "B I I ... of the target occurs contiguously in the source, and begins anew only where the pairs of (source, target) are not adjacent",
    source=SOURCE,
    method="all pairs of sequences of 0 to 4 tokens of 3 kinds and of 0 to 6 of 2 kinds: the longest of all subsets of the target that are "
    "subsequences of the source; the published walk with lengths found that way; substrings",
    expected="proved",
    cases=PAIRS,
)
def _labels(setting: Setting) -> Outcome:
    cases = 0
    for letters, longest in SIZES:
        for source, target in itertools.product(_sequences(letters, longest), repeat=2):
            cases += 1
            wrong = _mislabelled(source, target)
            if wrong:
                return Outcome("refuted", cases, f"source {source}, target {target}: {wrong}")
    return Outcome("proved", cases, "every pair of sequences")


def _fewest(source: Tokens, target: Tokens) -> int:
    """The smallest number of spans that a longest common subsequence can have."""
    zero = (0, 0)  # (length, - spans): the larger, the better
    best = [[zero] * (len(target) + 1) for _ in range(len(source) + 1)]
    ended = [[zero] * (len(target) + 1) for _ in range(len(source) + 1)]  # with the last two tokens as its last pair
    for i, token in enumerate(source, 1):
        for j, other in enumerate(target, 1):
            best[i][j] = max(best[i - 1][j], best[i][j - 1])
            if token == other:
                (length, spans), (run, runs) = best[i - 1][j - 1], ended[i - 1][j - 1]
                ended[i][j] = max((length + 1, spans - 1), (run + 1, runs) if run else zero)
                best[i][j] = max(best[i][j], ended[i][j])
    return -best[-1][-1][1]


BROKEN = ((1, 2, 5, 2, 6, 3), (1, 2, 3))  # the walk takes the second 2, and has three spans for two


@claim(
    "COPY-1.spans",
    "no longest common subsequence has fewer spans than the one that is labelled",
    source=SOURCE,
    method="source 1 2 5 2 6 3, target 1 2 3; how often it happens, for the pairs of up to 6 tokens of 2 kinds",
    expected="refuted",
    cases=1,
)
def _broken_spans(setting: Setting) -> Outcome:
    def spans(source: Tokens, target: Tokens) -> int:
        return copying.copy_labels(source, target).target.count(BEGIN)

    if not spans(*BROKEN) > _fewest(*BROKEN) > 0:
        return Outcome("not refuted", 1, f"{BROKEN}: {spans(*BROKEN)} spans")
    pairs = list(itertools.product(_sequences(*SIZES[1]), repeat=2))
    more = sum(spans(*pair) > _fewest(*pair) for pair in pairs)
    shown = f"{spans(*BROKEN)} spans where {_fewest(*BROKEN)} will do: the 2 is the later one; more than needed in {more} of {len(pairs)} pairs"
    return Outcome("refuted", 1, shown)


# --- decoding -----------------------------------------------------------------------------------------------------------------------


class _Model:
    """A model of random logits and tags, which are a function of the tokens read: ties are frequent."""

    context = 64

    def __init__(self, setting: Setting, seed: int, vocabulary: int) -> None:
        self.setting, self.seed, self.vocabulary = setting, seed, vocabulary

    def scores(self, tokens: Sequence[int]) -> tuple[Any, Any]:  # -> (vocab,), (3,)
        rng = np.random.default_rng([self.seed, *tokens])
        return rng.normal(size=self.vocabulary), rng.integers(-2, 3, 3) + np.array([0.0, 0.25, 1.5])

    def _said(self, rows: list[list[int]]) -> tuple[Any, Any]:
        logits, tags = (np.stack(part) for part in zip(*map(self.scores, rows), strict=True))
        return (self.setting.backend.asarray(logits), self.setting.backend.asarray(tags)), rows

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Any, Any]:
        return self._said([list(map(int, row)) for row in token_ids])

    def advance(self, token_ids: Any, cache: Any) -> tuple[Any, Any]:
        return self._said([[*row, int(new[0])] for row, new in zip(cache, token_ids, strict=True)])

    def select(self, cache: Any, rows: list[int]) -> Any:
        return [cache[row] for row in rows]


def _tag(scores: Sequence[float], state: int) -> int:
    """The tag of the largest score, O before B before I; no I where the state is 0."""
    return max(range(2 if state == 0 else 3), key=lambda tag: (scores[tag], -tag))


def _told(model: _Model, prompt: list[int], ids: list[int], source: Tokens) -> list[int]:
    """The labels that the model's own tags give to what was generated, with every span of the source looked for by comparison."""
    labels: list[int] = []
    span: Tokens = ()
    for place, token in enumerate(ids):
        tag = _tag(model.scores([*prompt, *ids[:place]])[1].tolist(), len(span))
        if tag == INSIDE and not any(_occurs((*span, other), source) for other in source):
            tag = BEGIN
        labels.append(tag)
        span = () if tag == OUTSIDE else (*span, token) if tag == INSIDE else (token,)
    return labels


def _texts(setting: Setting, seed: int) -> Iterator[tuple[_Model, Tokens, list[int]]]:
    """What one random model generates from a random source, by beams, by sampling and greedily."""
    rng = np.random.default_rng([setting.seed, seed])
    vocabulary = int(rng.integers(2, 7))
    source = tuple(rng.integers(0, vocabulary, int(rng.integers(1, 13))).tolist())
    model = _Model(setting, seed, vocabulary)
    decoder = copying.CopyDecoder(model, source)
    beams = decoding.beam_search(decoder, [1], beams=int(rng.integers(1, 5)), max_new_tokens=8, stop=(vocabulary - 1,))
    yield from ((model, source, hypothesis.ids) for hypothesis in beams)
    options: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 1.5, "top_k": 2, "rng": rng}]
    for given in options:
        steps = list(decoding.generate(decoder, [[1], [0]], max_new_tokens=8, **given))
        yield model, source, [int(step[0] or 0) for step in steps]


MODELS = 120


@functools.lru_cache(maxsize=1)
def _generated(setting: Setting) -> list[tuple[Tokens, list[int], list[int]]]:
    """(source, text, labels by the model's tags) of every text."""
    texts = [text for seed in range(MODELS) for text in _texts(setting, seed)]
    return [(source, ids, _told(model, [1], ids, source)) for model, source, ids in texts]


@claim(
    "COPY-2",
    "decoding under the tags emits only spans that occur contiguously in the source while the tag is B or I",
    source=SOURCE,
    method="120 random models of 2 to 6 tokens on sources of 1 to 12, by beams of 1 to 4, by sampling and greedily, 8 tokens; the tags of every text "
    "told again from the model's scores, its spans looked for in the source",
    expected="not refuted",
    cases=3 * MODELS,
)
def _contiguous(setting: Setting) -> Outcome:
    longest, copied = 0, 0
    for cases, (source, ids, labels) in enumerate(_generated(setting), 1):
        for span in _spans(labels, tuple(ids)):
            longest, copied = max(longest, len(span)), copied + 1
            if not _occurs(span, source):
                return Outcome("refuted", cases, f"{span} under {labels} of {ids} is not in {source}")
    return Outcome("not refuted", len(_generated(setting)), f"{copied} spans, the longest of {longest} tokens")


REACHED = ((3, 3, 4), (2, 5, 4))  # alphabets, the longest sources over them, and tokens generated
REACHED_STEPS = 80_557


def _reached(setting: Setting, source: Tokens, letters: int, depth: int) -> Iterator[tuple[Tokens, int, int, int]]:
    """(tokens, state before, tag, state after) of every step that any tags and any choice of allowed tokens lead to, from nothing."""
    array, tags = setting.backend.asarray, ([2.0, 1, 0], [0.0, 1, 0], [1.0, 0, 2])
    open_now: list[tuple[Tokens, int]] = [((), 0)]
    for _ in range(depth):
        rows = [(y, state, tag) for (y, state), tag in itertools.product(open_now, range(3))]
        scores, states = array(np.array([tags[tag] for *_, tag in rows])), array(np.array([s for _, s, _ in rows]))
        answers = copying.copy_step(scores, states, source, [list(y) for y, *_ in rows], vocab_size=letters + 1)
        allowed, after = (setting.backend.to_numpy(answer).tolist() for answer in answers)
        steps = [
            ((*y, token), state, tag, new)
            for (y, state, tag), may, new in zip(rows, allowed, after, strict=True)
            for token in range(letters + 1)
            if may[token]
        ]
        yield from steps
        open_now = list(dict.fromkeys((y, new) for y, _, _, new in steps))


@claim(
    "COPY-2.steps",
    "from state 0, whatever the tags and whichever allowed tokens are taken: after every step the last s tokens, s the state, occur contiguously "
    "in the source; s is 0 after O, 1 after B, and under I one more than before or, where nothing continues, 1; in state 0 I is O or B, whichever "
    "scores more",
    source=SOURCE,
    method="all sources of 1 to 3 tokens of 3 kinds and of 1 to 5 of 2 kinds, with one token beside them; all tags and all allowed tokens, 4 in a "
    "row: every (tokens, state) that is reached, by a comparison with all substrings",
    expected="proved",
    cases=REACHED_STEPS,
)
def _spans_by_steps(setting: Setting) -> Outcome:
    cases = longest = 0
    for letters, most, depth in REACHED:
        for source in _sequences(letters, most, 1):
            for y, before, tag, after in _reached(setting, source, letters, depth):
                cases, longest = cases + 1, max(longest, after)
                span = y[len(y) - after :]
                right = after in ((before + 1, 1) if tag == INSIDE and before else (tag % INSIDE,))
                if not (right and (after == 0 or _occurs(span, source))):
                    found = f"tag {tag} in state {before} leads to {after} after {y}"
                    return Outcome("refuted", cases, f"source {source}: {found}")
    return Outcome("proved", cases, f"every step; the longest span has {longest} tokens")


def _searches() -> list[tuple[int, bool]]:
    """(beams, whether every token is one that the tags of the text allow) of every recorded search of the released code."""
    answers, found = weights_io.open(components.RECORDED / "spaces" / "answers.safetensors"), []
    names = ("source", "width", "logits", "bio", "output")
    for source, width, _, bio, output in zip(*(answers[f"beam_{name}"] for name in names), strict=True):
        text, state, right = tuple(token for token in output.tolist() if token >= 0), 0, True
        for place, token in enumerate(text[1:]):
            tags = bio[place % len(bio), text[place]].tolist()
            allowed, state = _next(tuple(source.tolist()), text[1 : place + 1], state, tags)
            right &= allowed == {-1} or token in allowed
        found.append((int(width), right))
    return found


PUBLISHED_SOURCE = (1, 2, 3, 4, 5, 3, 6)  # 1 2 3 is followed by 4, and 3 elsewhere by 6


@claim(
    "COPY-2.published",
    "as COPY-2 in the released beam search, which gives the r-th hypothesis of a step the state of the r-th of the step before",
    source=SOURCE,
    method="a text 1 2 3 under B I I beside a text 4 5 3 under O, which a step exchanges while their states stay; 60 recorded searches of the "
    "released code: tokens that the tags of their own text do not allow",
    expected="refuted",
    cases=61,
)
def _not_reordered(setting: Setting) -> Outcome:
    array, states = setting.backend.asarray, setting.backend.asarray(np.array([1, 0]))
    emitted = [[4, 5, 3], [1, 2, 3]]  # the hypotheses in their order before; afterwards each has the other's place
    scores = array(np.array([[0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]))
    before = copying.copy_step(scores, array(np.array([0, 3])), PUBLISHED_SOURCE, emitted, vocab_size=8)[0]
    after = emitted[::-1]
    kept = copying.copy_step(scores, states, PUBLISHED_SOURCE, after, vocab_size=8, dialect="bert4keras-spaces")[0]
    right = copying.select_states(array(np.array([0, 3])), [1, 0])
    moved = copying.copy_step(scores, right, PUBLISHED_SOURCE, after, vocab_size=8)[0]
    allowed = [
        np.flatnonzero(setting.backend.to_numpy(each)[row]).tolist()
        for each, row in ((before, 1), (moved, 0), (kept, 0))
    ]
    broken = [token for token in allowed[2] if not _occurs((1, 2, 3, token), PUBLISHED_SOURCE)]
    if allowed[:2] != [[4], [4]] or not broken:
        return Outcome("proved", 61, f"allowed {allowed}")
    searches = _searches()
    wrong = sum(not right for width, right in searches if width > 1)
    if not wrong or not all(right for width, right in searches if width == 1):
        return Outcome(
            "proved", 61, f"{wrong} recorded searches of several beams leave what is allowed, or one of one beam does"
        )
    shown = f"after 1 2 3 under B I I, with the other's state 1 the tag I allows {broken}: 1 2 3 {broken[0]} is not in {PUBLISHED_SOURCE}"
    several = sum(width > 1 for width, _ in searches)
    return Outcome(
        "refuted",
        1 + len(searches),
        f"{shown}; in {wrong} of {several} recorded searches of 2 to 4 beams, and of none of one beam",
    )


HASHED = 150  # models


def _generated_by(case: int, beams: int, setting: Setting, **options: Any) -> tuple[Hashed, list[int], list[Generated]]:
    """A model, a source of few kinds of tokens, of which spans occur often, and what is generated."""
    vocabulary, letters = 12, 2 + mixed(case, 78) % 3
    source = [*(mixed(case, 100 + i) % letters for i in range(2 + mixed(case, 77) % 6)), vocabulary - 1]
    model = Hashed(case, vocabulary, 1, setting.backend.asarray)
    config = Seq2SeqConfig(BertConfig(vocabulary, 2, 1, 1), vocabulary - 2, vocabulary - 1)
    given: dict[str, Any] = {"beams": beams, "max_new_tokens": 8, "decoder": model} | options
    return model, source, generate(None, config, source, **given)


def _misplaced(source: list[int], found: Generated) -> str:
    """What is wrong with the places of a text, or nothing: they are where its spans are first."""
    expected: list[int | None] = [None if tag == OUTSIDE else -1 for tag in found.tags]
    place = 0
    for span in _spans(found.tags, tuple(found.ids)):
        place = next(i for i in range(place, len(expected)) if expected[i] == -1)
        first = next(i for i in range(len(source)) if tuple(source[i : i + len(span)]) == span)
        expected[place : place + len(span)] = range(first, first + len(span))
    return "" if expected == found.places else f"places {found.places}, expected {expected}"


@claim(
    "COPY-2.generate",
    "as COPY-2 of `refimpl.spaces.seq2seq.generate`, whose tags are those that the model's own scores say, and whose places those where each span "
    "stands first",
    source=SOURCE,
    method="150 models whose scores are a hash of the text, sources of 3 to 8 tokens of 2 to 4 kinds, beams of 1 to 4, k = 10 and 3, 8 tokens; all "
    "texts of a search, their tags told again from the scores, their spans looked for in the source",
    expected="not refuted",
    cases=HASHED,
)
def _generated_spans(setting: Setting) -> Outcome:
    cases, longest = 0, 0
    for case in range(HASHED):
        model, source, texts = _generated_by(case, 1 + case % 4, setting, k=(10, 3)[case % 2])
        for found in texts:
            labels = _told(model, [10], found.ids, tuple(source))
            spans = _spans(found.tags, tuple(found.ids))
            cases, longest = cases + 1, max([longest, *map(len, spans)])
            wrong = "" if labels == found.tags else f"tags {found.tags}, the scores say {labels}"
            wrong = wrong or next((f"{s} is not in it" for s in spans if not _occurs(s, tuple(source))), "")
            wrong = wrong or _misplaced(source, found)
            if wrong:
                return Outcome("refuted", cases, f"model {case}, source {source}, text {found.ids}: {wrong}")
    return Outcome("not refuted", cases, f"the longest span has {longest} tokens")


BROKEN_MODEL = 106  # of 400 models and 5 widths of beam, the shortest source and text of two beams


@claim(
    "COPY-2.generate.published",
    "as COPY-2.generate in the dialect published",
    source=f"{SOURCE}; bert4keras 0.9.7, AutoRegressiveDecoder",
    method="the model found by a search of 400 for the shortest source and text; and the 320 recorded searches: texts with a span, by the tags that "
    "made it, that is nowhere in the source",
    expected="refuted",
    cases=321,
)
def _published_spans(setting: Setting) -> Outcome:
    _, source, (found,) = _generated_by(BROKEN_MODEL, 2, setting, dialect="published")
    _, _, (corrected, *_) = _generated_by(BROKEN_MODEL, 2, setting)

    def broken(tags: Sequence[int], ids: list[int], source: list[int]) -> list[Tokens]:
        return [span for span in _spans(tags, tuple(ids)) if not _occurs(span, tuple(source))]

    spans = broken(found.tags, found.ids, source)
    if not spans or broken(corrected.tags, corrected.ids, source):
        return Outcome("proved", 321, f"text {found.ids} under {found.tags}")
    count = Counter[bool]()
    for case in recorded():
        ends = {"start": case.model.vocabulary - 2, "end": case.model.vocabulary - 1}
        options = {"max_new_tokens": case.most, "min_length": case.min_length, "min_ends": case.min_ends}
        text = published_search(case.model, case.source, beams=case.beams, **ends, **options)
        count[case.beams > 1] += bool(broken(text.tags, text.ids, case.source))
    if count[False] or not count[True]:
        return Outcome("proved", 321, f"{count[True]} recorded texts of several beams, {count[False]} of one beam")
    shown = f"of source {source}, {found.ids} under {found.tags}: {spans[0]} is not in it"
    return Outcome("refuted", 321, f"{shown}; {count[True]} of the recorded texts, none of one beam")


def _weak_orders() -> list[list[float]]:
    """The 13 weak orders of three scores."""
    return [list(map(float, r)) for r in itertools.product(range(3), repeat=3) if set(r) == set(range(max(r) + 1))]


def _steps(letters: int, longest: int, emitted: int) -> Iterator[tuple[Tokens, list[tuple[Tokens, int, list[float]]]]]:
    """For every source, and every number of emitted tokens, all (emitted, state, scores)."""
    for source, t in itertools.product(_sequences(letters, longest, 1), range(emitted + 1)):
        rows = itertools.product(_sequences(letters, t, t), range(t + 1), ([2.0, 1, 0], [0.0, 1, 0], [1.0, 0, 2]))
        yield source, [(y, s, scores) for y, s, scores in rows]


def _next(source: Tokens, y: Tokens, state: int, scores: list[float]) -> tuple[set[int], int]:
    """The tokens that may follow and the new state, by looking for substrings; everything allowed is -1."""
    tag = _tag(scores, state)
    if tag == OUTSIDE:
        return {-1}, 0
    span = y[len(y) - state :]
    found = {token for token in source if tag == INSIDE and _occurs((*span, token), source)}
    return (found, state + 1) if found else (set(source), 1)


LETTERS, LONGEST, EMITTED = 3, 4, 3
STEPS = sum(LETTERS**n for n in range(1, LONGEST + 1)) * sum(3 * LETTERS**t * (t + 1) for t in range(EMITTED + 1))


@claim(
    "COPY-4",
    "a step allows what the tag says: all under O, the source's tokens under B, under I the tokens that continue the last s in the source; "
    "when no continuation exists, it falls back to B; never nothing",
    source=SOURCE,
    method="all sources of 1 to 4 tokens of 3 kinds, all 0 to 3 emitted tokens, all states up to their number, each tag; substrings and sets",
    expected="proved",
    cases=STEPS,
)
def _steps_hold(setting: Setting) -> Outcome:
    cases, fallbacks, array = 0, 0, setting.backend.asarray
    for source, rows in _steps(LETTERS, LONGEST, EMITTED):
        scores = array(np.array([row[2] for row in rows]))
        states, emitted = array(np.array([row[1] for row in rows])), [list(row[0]) for row in rows]
        allowed, after = map(
            setting.backend.to_numpy, copying.copy_step(scores, states, source, emitted, vocab_size=LETTERS + 1)
        )
        for (y, state, given), mask, new in zip(rows, allowed.tolist(), after.tolist(), strict=True):
            tokens, expected = _next(source, y, state, given)
            everything = tokens == {-1}
            fallbacks += _tag(given, state) == INSIDE and expected == 1
            if mask != [everything or token in tokens for token in range(LETTERS + 1)] or new != expected:
                found = f"allowed {mask}, state {new}; expected {sorted(tokens)}, {expected}"
                return Outcome(
                    "refuted", cases, f"source {source}, emitted {y}, state {state}, scores {given}: {found}"
                )
        cases += len(rows)
    return Outcome("proved", cases, f"{fallbacks} of them fall back")


@claim(
    "COPY-3",
    "O is never followed by I",
    source=SOURCE,
    method="a step from state 0 for all 13 weak orders of the three scores: the new state is 0 or 1, as the order of O and B alone says; the tags of "
    "every text of COPY-2's random models",
    expected="proved",
    cases=13 + 3 * MODELS,
)
def _no_inside_after_outside(setting: Setting) -> Outcome:
    orders, array = _weak_orders(), setting.backend.asarray
    zeros, emitted = array(np.zeros(13, np.int64)), [[1]] * 13
    states = copying.copy_step(array(np.array(orders)), zeros, [1, 2], emitted, vocab_size=3)[1]
    for scores, state in zip(orders, setting.backend.to_numpy(states).tolist(), strict=True):
        if state != (BEGIN if scores[1] > scores[0] else OUTSIDE):
            return Outcome("refuted", 13, f"scores {scores} in state 0 lead to state {state}")
    for cases, (_, ids, labels) in enumerate(_generated(setting), 14):
        if any(before == OUTSIDE and label == INSIDE for before, label in itertools.pairwise((OUTSIDE, *labels))):
            return Outcome("refuted", cases, f"{labels} of {ids}")
    continued = sum(label == INSIDE for _, _, labels in _generated(setting) for label in labels)
    return Outcome("proved", 13 + len(_generated(setting)), f"{continued} I in the texts, none after O")


@claim(
    "COPY-3.published",
    "the released code, which negates the probability of I in state 0, chooses as if I took no part; for scores that are negative it does not",
    source=SOURCE,
    method="-p_I <= 0 <= p_O, p_B, and of equal ones O and B come first: all weak orders of three non-negative scores, zeros included, in "
    "states 0 and 1, give the same masks and states; of logits -1, -2, -5 the dialect takes I",
    expected="proved",
    cases=2 * 27,
)
def _negated(setting: Setting) -> Outcome:
    rows = [list(map(float, row)) for row in itertools.product(range(3), repeat=3)]
    array, cases = setting.backend.asarray, 0
    for state in (0, 1):
        given = (array(np.array(rows)), array(np.full(27, state)), [1, 2, 1], [[1]] * 27)
        one, other = (copying.copy_step(*given, vocab_size=4, dialect=dialect) for dialect in copying.dialects)
        for a, b in zip(one, other, strict=True):
            same = setting.backend.to_numpy(a) == setting.backend.to_numpy(b)
            if not same.all():
                return Outcome(
                    "refuted", cases, f"state {state}: {rows[int(np.argmin(np.reshape(same, (27, -1)).all(1)))]}"
                )
        cases += 27
    logits = (array(np.array([[-1.0, -2.0, -5.0]])), array(np.array([0])), [1, 2], [[1]])
    states = [int(copying.copy_step(*logits, vocab_size=3, dialect=dialect)[1][0]) for dialect in copying.dialects]
    if states != [0, 1]:
        return Outcome("refuted", cases, f"logits -1, -2, -5 lead to {states}")
    return Outcome("proved", cases, "logits -1, -2, -5 in state 0: O, and with the third negated a copy")


ROWS = 2000


@claim(
    "COPY-5",
    "masking by copy then top-k leaves a proper distribution: it sums to 1, is 0 outside what is allowed, and keeps the ratios of what it keeps",
    source=SOURCE,
    method="2000 rows of 2 to 40 random logits, up to 10^4 in size, a third with many ties, random masks of at least one token, k from 1 to all, "
    "in float32 and float64; sums to n u, exact zeros, each p within 4 (|z| + |max z| + n + 1) u of its exact value: the roundings of z - max z, of "
    "exp, of a sum of n terms and of a quotient",
    expected="not refuted",
    cases=2 * ROWS,
)
def _proper(setting: Setting) -> Outcome:
    rng, cases, worst = np.random.default_rng(setting.seed), 0, 0.0
    for dtype, u in (("float32", 2.0**-24), ("float64", 2.0**-53)):
        for index in range(ROWS // 20):
            n, size = int(rng.integers(2, 41)), 10.0 ** rng.integers(-3, 5)
            logits = (np.round(rng.normal(size=(20, n))) if index % 3 == 0 else rng.normal(size=(20, n))) * size
            logits, allowed, k = (
                logits.astype(dtype),
                rng.random((20, n)) < rng.random((20, 1)),
                int(rng.integers(1, n + 1)),
            )
            allowed[np.arange(20), rng.integers(0, n, 20)] = True
            masked = copying.masked_logits(setting.backend.asarray(logits), setting.backend.asarray(allowed))
            p = setting.backend.to_numpy(decoding.sampling_probabilities(masked, top_k=k)).astype(np.float64)
            best = np.max(np.where(allowed, logits, -np.inf), axis=1, keepdims=True).astype(np.float64)
            kth = -np.sort(-np.where(allowed, logits, -np.inf), axis=1)[:, k - 1 : k]
            kept = allowed & (logits >= kth)
            exact = np.where(kept, np.exp(np.where(kept, logits.astype(np.float64) - best, 0)), 0.0)
            exact /= exact.sum(1, keepdims=True)
            error = np.abs(p - exact) / (4 * (np.abs(best) + np.abs(logits) + n + 1) * u)
            cases, worst = cases + 20, max(worst, float(error.max()))
            if not (np.all(np.abs(p.sum(1) - 1) <= n * u) and np.all(p >= 0) and np.all(p[~kept] == 0) and worst <= 1):
                row = int(np.argmax(error.max(1)))
                return Outcome("refuted", cases, f"{dtype}, k = {k}: {p[row]} of {logits[row]}, allowed {allowed[row]}")
    return Outcome("not refuted", cases, "no mass outside what is allowed", worst)


@claim(
    "COPY-5.published",
    "as COPY-5 in the released code, which puts -1000 in the place of a logit that is not allowed and searches with log(p + 10⁻¹²)",
    source=f"{SOURCE}; bert4keras 0.9.7, AutoRegressiveDecoder",
    method="two logits -1010 and 0, the first alone allowed: the other has all the mass; logits 3 and 1, the first alone allowed: of two beams the "
    "second goes on with the other, at log 10⁻¹² a token, instead of ending",
    expected="refuted",
    cases=2,
)
def _finite_mask(setting: Setting) -> Outcome:
    array, only = setting.backend.asarray, setting.backend.asarray(np.array([[True, False]]))
    low, high = (array(np.array([[-1010.0, 0.0]])), array(np.array([[3.0, 1.0]])))
    leaked = decoding.sampling_probabilities(copying.masked_logits(low, only, dialect="bert4keras-spaces"))
    searched = decoding.sampling_probabilities(copying.masked_logits(high, only, dialect="bert4keras-spaces"))
    scores = np.log(setting.backend.to_numpy(searched)[0] + 1e-12)
    mass = float(setting.backend.to_numpy(leaked)[0, 1])
    if not (mass > 0.99 and np.isfinite(scores[1])):
        return Outcome("proved", 2, f"mass {mass}, scores {scores}")
    return Outcome(
        "refuted", 2, f"a mass of {mass:.6g} on what is not allowed; a score of {scores[1]:.2f} where it should be -inf"
    )
