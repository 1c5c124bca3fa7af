"""The copy mechanism of SPACES: which tokens of a summary are copied from its source, and decoding that copies only what is there.

Every target token is O (not copied), B (the first of a copied span) or I (its continuation); as numbers 0, 1, 2. With a longest common subsequence
(i_1, j_1), ..., (i_l, j_l) of source and target,

    target[j_r] is I  if (i_r, j_r) = (i_{r-1} + 1, j_{r-1} + 1), else B;  positions in no pair are O                    (1)

and source[i_r] has the label of target[j_r]. Of several longest common subsequences, the one is taken that this walk finds, where c[i, j] is the
length of a longest one of the first i and the first j tokens: from (n, m), take the pair where the two last tokens are equal, else drop the
target's where c[i, j-1] > c[i-1, j], else drop the source's.                                                             (2)

While decoding, a hypothesis has the state s: the length of the copied span that its last tokens are, 0 outside. With y its tokens, x the source and
τ the tag of the largest score (of equal ones O before B before I; I takes no part where s = 0), the next token is one of

    O: all, s' = 0;   B: {x_i}, s' = 1;   I: {x_i : x_{i-s..i-1} = the last s of y}, s' = s + 1, and as B where no i is           (3)

Training minimizes, with z the tag logits, s the tokens' logits and x the tokens of source and target one after the other,

    copy loss = the mean of -log softmax(z_t)[label_t]         over positions t before the last of the target                    (4)
    sequence loss = the mean of log Σ_{j in T} exp(s_tj) - s_t[x_{t+1}],  T the k largest,        over t and t+1 both in the target        (5)
    loss = sequence loss + 2 · copy loss                                                                                        (6)

(1) and (3) are found by comparing whole numbers. The walk (2) is a combinatorial algorithm of lists on the host; a step (3) is one of arrays.

Reference: J. Su, "SPACES: extract-generate long text summarization", Scientific Spaces 8046 (2021), and github.com/bojone/SPACES at a545db3; the
subsequence is bert4keras' `longest_common_subsequence`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from refimpl.decoding import top_k_mask
from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.gradients import Pullback, vjp_of, zeros
from refimpl.inputs import as_array
from refimpl.number_system import (
    Array,
    check_boolean,
    check_floating,
    device_of,
    exact,
    is_ball,
    namespace,
    rounded_once,
)
from refimpl.softmax import (
    clipped_cross_entropy,
    clipped_cross_entropy_vjp,
    counted_mean,
    cross_entropy,
    cross_entropy_vjp,
    sparse_softmax_cross_entropy,
    sparse_softmax_cross_entropy_vjp,
    top_k_selection,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BEGIN",
    "INSIDE",
    "OUTSIDE",
    "CopyDecoder",
    "CopyLabels",
    "CopyState",
    "TaggedDecoder",
    "copy_labels",
    "copy_loss",
    "copy_loss_vjp",
    "copy_step",
    "dialects",
    "longest_common_subsequence",
    "masked_logits",
    "select_states",
    "sequence_labels",
    "sequence_loss",
    "sequence_loss_vjp",
    "spaces_loss",
    "spaces_loss_vjp",
]

OUTSIDE, BEGIN, INSIDE = 0, 1, 2
dialects = ("corrected", "bert4keras-spaces")
_HIDDEN, _KEPT = -1000, 10  # what bert4keras-spaces puts in the place of a logit, and how many it leaves
_CLIPS = {"corrected": 0.0, "bert4keras-spaces": 1e-7}  # what each keeps probabilities from 0 and 1 by, in the loss


# --- labels -------------------------------------------------------------------------------------------------------------------------


class CopyLabels(NamedTuple):
    """A label for every token: 0 (O), 1 (B) or 2 (I)."""

    source: list[int]
    target: list[int]


def _tokens(name: str, tokens: Any) -> list[int]:
    """Token ids as a list of whole numbers; raises TokenError for what is none."""
    if hasattr(tokens, "dtype") and (tokens.ndim != 1 or "int" not in str(tokens.dtype)):
        got = f"{tokens.dtype} {tuple(tokens.shape)}"
        raise TokenError(
            "token ids must be whole numbers", where=name, expected="an integer array of one axis", got=got
        )
    found = [int(token) for token in tokens] if hasattr(tokens, "dtype") else list(tokens)
    for place, token in enumerate(found):
        if not isinstance(token, int) or isinstance(token, bool):
            raise TokenError(
                "token ids must be whole numbers", where=f"{name}[{place}]", expected="an int", got=repr(token)
            )
    return found


def _common_lengths(x: list[int], y: list[int]) -> list[int]:
    """Rows of bits: c[i, j] is how many of the lowest j bits of row i are 0, one for each j at which c[i, j] is one more than c[i, j-1].

    A token x_i moves, in every run of bits from one 0 up to the next, the 0 to the first place where y has x_i: an addition carries through the run.

    Reference: H. Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004.
    """
    every, places = (1 << len(y)) - 1, dict.fromkeys(x, 0)
    for j, token in enumerate(y):
        places[token] = places.get(token, 0) | 1 << j
    rows = [every]
    for token in x:
        common = rows[-1] & places[token]
        rows.append((rows[-1] + common | rows[-1] - common) & every)
    return rows


def longest_common_subsequence(source: Any, target: Any) -> list[tuple[int, int]]:  # (n,), (m,) -> pairs
    """(i_1, j_1), ..., (i_l, j_l), both rising, with source[i_r] = target[j_r] and l as large as can be; ties by the walk (2).

    The positions j are, read from the last, the largest that any longest common subsequence has (claim COPY-1); the positions i follow from the walk.

    Parameters
    ----------
    source, target : sequences of token ids: lists or integer arrays, which are read on the host

    Returns
    -------
    list of pairs (position in source, position in target), rising; empty where nothing is common. Work and memory are n · m bits.

    Raises
    ------
    TokenError
        for token ids that are not whole numbers.
    """
    x, y = _tokens("source", source), _tokens("target", target)
    rows, i, j = _common_lengths(x, y), len(x), len(y)
    pairs: list[tuple[int, int]] = []

    def c(i: int, j: int) -> int:
        return j - (rows[i] & (1 << j) - 1).bit_count()

    while c(i, j):
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif c(i, j - 1) > c(i - 1, j):
            j -= 1
        else:
            i -= 1
    return pairs[::-1]


def copy_labels(source: Any, target: Any) -> CopyLabels:  # (n,), (m,) -> n and m labels
    """target[j_r] is I if (i_r, j_r) = (i_{r-1} + 1, j_{r-1} + 1), else B; O at positions in no pair; source[i_r] has the label of target[j_r].

    Parameters
    ----------
    source, target : sequences of token ids: lists or integer arrays, which are read on the host

    Returns
    -------
    CopyLabels, two lists of 0 (O), 1 (B) and 2 (I), of the lengths of `source` and `target`

    Raises
    ------
    TokenError
        for token ids that are not whole numbers.
    """
    x, y = _tokens("source", source), _tokens("target", target)
    labels, before = CopyLabels([OUTSIDE] * len(x), [OUTSIDE] * len(y)), (-2, -2)
    for i, j in longest_common_subsequence(x, y):
        labels.source[i] = labels.target[j] = INSIDE if (i, j) == (before[0] + 1, before[1] + 1) else BEGIN
        before = (i, j)
    return labels


def sequence_labels(source: Any, target: Any) -> list[int]:  # (n,), (m,) -> n + m - 1 labels
    """What each position of source + target is trained to say: its OWN label in the source, the NEXT token's in the target.

    The label of the first target token, which is given and not predicted, is that of no position.

    Parameters
    ----------
    source, target : sequences of token ids, as the model reads them one after the other (special tokens included); the target is not empty

    Returns
    -------
    list of n + m - 1 labels, for all positions but the last

    Raises
    ------
    TokenError
        for token ids that are not whole numbers, or an empty target.
    """
    labels = copy_labels(source, target)
    if not labels.target:
        raise TokenError(
            "the target is empty", where="sequence_labels", expected="at least its first token, which is given"
        )
    return [*labels.source, *labels.target[1:]]


@rounded_once
def copy_loss(
    tag_logits: Array, labels: Any, segment_ids: Any, *, dialect: str = "corrected", clip: float | None = None
) -> Array:  # (b, n, 3), int (b, n-1), int (b, n) -> ()
    """loss = the mean over trained (b, t) of -log softmax(tag_logits[b, t])[labels[b, t]]; t is trained if segment_ids[b, t'] > 0 for a t' > t.

    Segment 1 is the target, 0 the source, and 0 what is behind the target: trained are all positions but the last of the target and what follows.

    Parameters
    ----------
    tag_logits : array, (batch, n, 3), floating or balls, of O, B, I. Any numbers that differ by one constant a row, such as logarithms of
        probabilities, are the same
    labels : integers, (batch, n - 1), 0, 1 or 2, as `sequence_labels` gives them; any of the three where nothing is trained
    segment_ids : integers, (batch, n), 0 or 1
    dialect : "corrected", or "bert4keras-spaces", whose clip is 1e-7
    clip : float, 0 <= clip < 1/2, in place of the dialect's: by how much probabilities are kept from 0 and 1, as
        `refimpl.softmax.clipped_cross_entropy`; 0 for not

    Returns
    -------
    array, (), the dtype of `tag_logits`

    Raises
    ------
    DtypeError, ShapeError, TokenError, ConfigError
        if `tag_logits` are not floating, shapes do not fit, labels or segments are out of range, or nothing is trained; for another dialect or clip.
    """
    chosen, trained, count = _of_tags(tag_logits, labels, segment_ids)
    given, limit = tag_logits[:, :-1, :], _clip(dialect, clip)
    return counted_mean(
        clipped_cross_entropy(given, chosen, limit) if limit else cross_entropy(given, chosen), trained, count
    )


def _of_tags(tag_logits: Array, labels: Any, segment_ids: Any) -> tuple[Array, Array, int]:
    """The labels, which positions are trained, and how many."""
    check_floating("tag_logits", tag_logits)
    xp, shape = namespace(tag_logits), tuple(tag_logits.shape)
    if len(shape) != 3 or shape[2] != 3:
        raise ShapeError("tag_logits must have three numbers a token", expected="(batch, n, 3)", got=shape)
    chosen = _whole("labels", labels, tag_logits, (shape[0], shape[1] - 1), 3)
    segments = _whole("segment_ids", segment_ids, tag_logits, shape[:2], 2)
    trained = xp.flip(xp.cumulative_sum(xp.flip(segments, axis=1), axis=1), axis=1)[:, 1:] > 0
    return chosen, trained, _count("copy_loss", trained, "a 1 beyond the first position")


def _count(where: str, trained: Array, expected: str) -> int:
    """How many positions are trained, which must be some."""
    xp = namespace(trained)
    count = int(xp.sum(xp.astype(trained, xp.int64)))
    if not count:
        raise TokenError("nothing is trained", where=f"{where}(segment_ids)", expected=expected)
    return count


def _clip(dialect: str, clip: Any) -> float:
    _check_dialect(dialect)
    limit = _CLIPS[dialect] if clip is None else clip
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit < 0.5:
        raise ConfigError("there is no such clip", where="copying", expected="0 <= clip < 1/2", got=repr(clip))
    return float(limit)


@rounded_once
def sequence_loss(
    logits: Array, token_ids: Any, segment_ids: Any, k: int = 10
) -> Array:  # (b, n, v), int (b, n), int (b, n) -> ()
    """loss = the mean over (b, t), with segments 1 at t and t+1, of sparse_softmax_cross_entropy(logits[b, t], token_ids[b, t+1], k).

    Of the target, all tokens but the first are predicted, each at the position before it.

    Parameters
    ----------
    logits : array, (batch, n, vocab), floating or balls
    token_ids : integers, (batch, n), those that are said, 0 <= id < vocab, wherever they stand
    segment_ids : integers, (batch, n), 0 or 1
    k : int >= 1, as `refimpl.softmax.sparse_softmax_cross_entropy`; from vocab on the loss is the plain cross-entropy

    Returns
    -------
    array, (), the dtype of `logits`

    Raises
    ------
    DtypeError, ShapeError, TokenError, ConfigError, UndecidedError
        as `refimpl.softmax.sparse_softmax_cross_entropy`; if shapes do not fit, segments are out of range, or nothing is trained.
    """
    targets, trained, count = _of_tokens(logits, token_ids, segment_ids)
    losses = sparse_softmax_cross_entropy(logits[:, :-1, :], targets, k, mask=trained[..., None])
    return counted_mean(losses, trained, count)


def _of_tokens(logits: Array, token_ids: Any, segment_ids: Any) -> tuple[Array, Array, int]:
    """The next tokens, which positions are trained, and how many."""
    check_floating("logits", logits)
    shape = tuple(logits.shape)
    if len(shape) != 3:
        raise ShapeError("logits must have three axes", where="sequence_loss", expected="(batch, n, vocab)", got=shape)
    said = _whole("token_ids", token_ids, logits, shape[:2], shape[2])
    segments = _whole("segment_ids", segment_ids, logits, shape[:2], 2)
    trained = segments[:, :-1] * segments[:, 1:] > 0
    return said[:, 1:], trained, _count("sequence_loss", trained, "two 1 beside each other")


@rounded_once
def spaces_loss(
    logits: Array,
    tag_logits: Array,
    token_ids: Any,
    labels: Any,
    segment_ids: Any,
    *,
    k: int = 10,
    copy_weight: float = 2.0,
    dialect: str = "corrected",
    clip: float | None = None,
) -> Array:  # (b, n, v), (b, n, 3), int (b, n), int (b, n-1), int (b, n) -> ()
    """loss = sequence_loss(logits, token_ids, segment_ids, k) + 2 · copy_loss(tag_logits, labels, segment_ids).

    Parameters
    ----------
    logits, token_ids, segment_ids, k : as `sequence_loss`
    tag_logits, labels, dialect, clip : as `copy_loss`
    copy_weight : float, finite, the weight of the copy loss: 2

    Returns
    -------
    array, (), the dtype of `logits`

    Raises
    ------
    DtypeError, ShapeError, TokenError, ConfigError, UndecidedError
        as the two.
    """
    weight = exact(_checked_weight(copy_weight), logits)
    copied = copy_loss(tag_logits, labels, segment_ids, dialect=dialect, clip=clip)
    return _weighted(sequence_loss(logits, token_ids, segment_ids, k), copied, weight)


def _weighted(said: Array, copied: Array, weight: Any) -> Array:  # (), () -> ()
    """said + weight · copied, an array on every number system."""
    xp = namespace(said, copied)
    return xp.reshape(xp.reshape(said, (1,)) + weight * xp.reshape(copied, (1,)), ())


def _checked_weight(weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        what, where = "the weight of the copy loss must be a finite number", "spaces_loss(copy_weight=...)"
        raise ConfigError(what, where=where, expected="a float", got=repr(weight))
    return float(weight)


# --- losses, backwards ----------------------------------------------------------------------------------------------------------------


def _with_last(bar: Array, like: Array) -> Array:  # (b, n-1, d), (b, n, d) -> (b, n, d)
    """Cotangents of all positions but the last, which has none."""
    return namespace(bar).concat([bar, zeros(like[:, :1, :])], axis=1)


def _scaled(bar: Array, factor: Any) -> Array:  # () -> ()
    """A cotangent without axes times a number, as an array on every number system."""
    xp = namespace(bar)
    return xp.reshape(xp.reshape(bar, (1,)) * factor, ())


@vjp_of(copy_loss, "tag_logits")
def copy_loss_vjp(
    tag_logits: Array, labels: Any, segment_ids: Any, *, dialect: str = "corrected", clip: float | None = None
) -> tuple[Array, Pullback]:  # (b, n, 3), int (b, n-1), int (b, n) -> (), pullback
    """z̄[b, t] = (softmax(z[b, t]) - [labels[b, t]]) loss̄/N at the N trained (b, t), exactly 0 elsewhere. Arguments and errors as `copy_loss`.

    Where probabilities are clipped, that of `refimpl.softmax.clipped_cross_entropy`.
    """
    chosen, trained, count = _of_tags(tag_logits, labels, segment_ids)
    given, limit = tag_logits[:, :-1, :], _clip(dialect, clip)
    rule = clipped_cross_entropy_vjp(given, chosen, limit) if limit else cross_entropy_vjp(given, chosen)

    def pullback(loss_bar: Array) -> tuple[Array]:  # () -> (b, n, 3)
        xp, zero = namespace(tag_logits), exact(0, tag_logits)
        (given_bar,) = rule[1](xp.where(trained, _scaled(loss_bar, 1 / exact(count, tag_logits)), zero))
        return (_with_last(xp.where(trained[..., None], given_bar, zero), tag_logits),)

    return counted_mean(rule[0], trained, count), pullback


@vjp_of(sequence_loss, "logits")
def sequence_loss_vjp(
    logits: Array, token_ids: Any, segment_ids: Any, k: int = 10
) -> tuple[Array, Pullback]:  # (b, n, v), int (b, n), int (b, n) -> (), pullback
    """s̄[b, t] = (sparse_softmax(s[b, t]) - [token_ids[b, t+1]]) loss̄/N at the N trained (b, t), exactly 0 elsewhere. Arguments as `sequence_loss`."""
    targets, trained, count = _of_tokens(logits, token_ids, segment_ids)
    given = logits[:, :-1, :]
    losses, to_given = sparse_softmax_cross_entropy_vjp(given, targets, k, mask=trained[..., None])

    def pullback(loss_bar: Array) -> tuple[Array]:  # () -> (b, n, v)
        xp = namespace(logits)
        bars = xp.where(trained, _scaled(loss_bar, 1 / exact(count, logits)), exact(0, logits))
        return (_with_last(to_given(bars)[0], logits),)

    return counted_mean(losses, trained, count), pullback


@vjp_of(spaces_loss, "logits", "tag_logits")
def spaces_loss_vjp(
    logits: Array,
    tag_logits: Array,
    token_ids: Any,
    labels: Any,
    segment_ids: Any,
    *,
    k: int = 10,
    copy_weight: float = 2.0,
    dialect: str = "corrected",
    clip: float | None = None,
) -> tuple[Array, Pullback]:  # as `spaces_loss` -> (), pullback
    """The cotangents of the two losses, for loss̄ and 2 loss̄. Arguments and errors as `spaces_loss`."""
    weight = exact(_checked_weight(copy_weight), logits)
    copied, to_tags = copy_loss_vjp(tag_logits, labels, segment_ids, dialect=dialect, clip=clip)
    said, to_logits = sequence_loss_vjp(logits, token_ids, segment_ids, k)

    def pullback(loss_bar: Array) -> tuple[Array, Array]:  # () -> (b, n, v), (b, n, 3)
        return *to_logits(loss_bar), *to_tags(_scaled(loss_bar, weight))

    return _weighted(said, copied, weight), pullback


# --- decoding -----------------------------------------------------------------------------------------------------------------------


def _whole(name: str, values: Any, like: Array, shape: tuple[int | None, ...], below: int) -> Array:  # -> int64 (...)
    """Whole numbers 0 <= value < below beside `like`; raises for another shape (None: any length), dtype or range."""
    xp, given = namespace(like), as_array(name, values, like)
    told = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    if given.ndim != len(shape) or any(a not in (None, b) for a, b in zip(shape, given.shape, strict=True)):
        raise ShapeError(f"{name} does not fit", where=name, expected=told, got=tuple(given.shape))
    if 0 in given.shape:
        return xp.zeros(given.shape, dtype=xp.int64, device=device_of(like))  # an empty list has no dtype of its own
    if "int" not in str(given.dtype):
        raise TokenError(f"{name} must be whole numbers", where=name, expected="an integer dtype", got=given.dtype)
    given = xp.astype(given, xp.int64)
    outside = (given < 0) | (given >= below)
    if bool(xp.any(outside)):
        place = tuple(int(axis[0]) for axis in xp.nonzero(outside))
        raise TokenError(
            "out of range", where=f"{name}{list(place)}", expected=f"0 <= it < {below}", got=int(given[place])
        )
    return given


def _checked(tag_scores: Array, states: Any, source: Any, emitted: Any, vocab_size: int) -> tuple[Array, Array, Array]:
    """The states, the source and the emitted tokens as int64 arrays beside the scores."""
    check_floating("tag_scores", tag_scores)
    if tag_scores.ndim != 2 or tag_scores.shape[0] < 1 or tag_scores.shape[1] != 3:
        got = tuple(tag_scores.shape)
        raise ShapeError("tag_scores must have three numbers a hypothesis", expected="(beams, 3), of O, B, I", got=got)
    if not is_ball(tag_scores) and bool(namespace(tag_scores).any(tag_scores != tag_scores)):
        raise TokenError("the next tag cannot be chosen", where="copy_step(tag_scores)", expected="numbers", got="NaN")
    beams = tag_scores.shape[0]
    x = _whole("source", source, tag_scores, (None,), vocab_size)
    if not x.shape[0]:
        remedy = "decode without copying: allow everything"
        raise TokenError("there is nothing to copy from", where="copy_step(source)", expected="a token", remedy=remedy)
    y = _whole("emitted", emitted, tag_scores, (beams, None), vocab_size)
    return _whole("states", states, tag_scores, (beams,), y.shape[1] + 1), x, y


def _tags(tag_scores: Array, states: Array, dialect: str) -> Array:  # (beams, 3), int (beams,) -> int (beams,)
    """The tag of the largest score; where the state is 0, I takes no part or, in bert4keras-spaces, has its score negated."""
    xp = namespace(tag_scores)
    tags = xp.arange(3, device=device_of(tag_scores))
    barred = (states == 0)[:, None] & (tags == INSIDE)[None, :]
    if dialect == "bert4keras-spaces":
        best = top_k_selection(xp.where(barred, -tag_scores, tag_scores), 1)
    else:
        best = top_k_selection(tag_scores, 1, mask=~barred)
    return xp.sum(xp.where(best, xp.astype(tags, xp.int64)[None, :], 0), axis=1)


def _continues(
    source: Array, emitted: Array, lengths: Array
) -> Array:  # int (n,), int (beams, t), int (beams,) -> bool (beams, n)
    """c[r, i] = (source[i-m], ..., source[i-1] are the last m = lengths[r] tokens of emitted[r]); true everywhere for m <= 0."""
    xp, before = namespace(source), source
    found = xp.ones((emitted.shape[0], source.shape[0]), dtype=xp.bool, device=device_of(source))
    edge = xp.full((1,), -1, dtype=xp.int64, device=device_of(source))  # what no token is equal to
    for back in range(1, int(xp.max(lengths)) + 1):
        before = xp.concat([edge, before[:-1]])  # source[i - back]
        same = before[None, :] == emitted[:, emitted.shape[1] - back][:, None]
        found = found & (same | (lengths < back)[:, None])
    return found


def _among(tokens: Array, chosen: Array, vocab_size: int) -> Array:  # int (n,), bool (beams, n) -> bool (beams, vocab)
    """a[r, v] = (v = tokens[i] for an i with chosen[r, i])."""
    xp, rows = namespace(tokens), []
    ids, nothing = xp.arange(vocab_size, dtype=xp.int64, device=device_of(tokens)), xp.full_like(tokens, -1)
    for r in range(chosen.shape[0]):
        ordered = xp.sort(xp.where(chosen[r, :], tokens, nothing))
        place = xp.minimum(xp.searchsorted(ordered, ids), xp.full_like(ids, tokens.shape[0] - 1))
        rows.append(xp.take(ordered, place, axis=0) == ids)
    return xp.stack(rows)


def _check_dialect(dialect: str) -> None:
    if dialect not in dialects:
        raise ConfigError("unknown dialect", where="copying", expected=", ".join(dialects), got=repr(dialect))


def copy_step(
    tag_scores: Array, states: Any, source: Any, emitted: Any, *, vocab_size: int, dialect: str = "corrected"
) -> tuple[Array, Array]:  # (beams, 3), int (beams,), int (n,), int (beams, t) -> bool (beams, vocab), int64 (beams,)
    """O: all, s' = 0;  B: {x_i}, s' = 1;  I: {x_i : x_{i-s..i-1} = the last s of y}, s' = s + 1, and as B where there is none.

    Parameters
    ----------
    tag_scores : array, (beams, 3), floating or balls: of O, B, I, for the next token. Logits, probabilities or their logarithms: only their order
        matters. In the dialect bert4keras-spaces they must be probabilities, since it negates one
    states : whole numbers, (beams,), the states that the last step returned, 0 in the first; re-ordered with the hypotheses (`select_states`)
    source : token ids, (n,), n >= 1: what may be copied. Special tokens are as others: the labels of training say which belong to it
    emitted : token ids, (beams, t), what each hypothesis consists of; a token that stands before all that was generated does not matter
    vocab_size : int, one more than the largest token id
    dialect : "corrected", or "bert4keras-spaces", which is the same for scores that are probabilities (claim COPY-3.published)

    Returns
    -------
    (allowed, states) : bool (beams, vocab_size), true where the next token may be, at least once a row; int64 (beams,)

    Raises
    ------
    DtypeError, ShapeError, TokenError, ConfigError
        for scores that are not floating or NaN, arrays that do not fit, ids out of range, an empty source, a state larger than t, another dialect.
    UndecidedError
        if scores are balls, and the largest overlap. Balls that are exact and equal are decided by their order.
    """
    _check_dialect(dialect)
    given, x, y = _checked(tag_scores, states, source, emitted, vocab_size)
    xp, tags = namespace(x), _tags(tag_scores, given, dialect)
    spans = xp.where(tags == INSIDE, given + 1, tags)
    found = _continues(x, y, spans - 1)
    lost = ~xp.any(found, axis=1)
    spans = xp.where(lost, xp.ones_like(spans), spans)
    return (spans == 0)[:, None] | _among(x, found | lost[:, None], vocab_size), spans


def select_states(states: Array, rows: Sequence[int]) -> Array:  # int (beams,) -> int (len(rows),)
    """s'[r] = s[rows[r]]: the states of the hypotheses that a beam goes on with, in their new order; a row may come twice, or not at all.

    Raises TokenError, ShapeError for rows that are not 0 <= row < beams.
    """
    return namespace(states).take(states, _whole("rows", list(rows), states, (None,), states.shape[0]), axis=0)


@rounded_once
def masked_logits(
    logits: Array, allowed: Array, *, dialect: str = "corrected"
) -> Array:  # (beams, vocab), bool -> (beams, vocab)
    """z'_v = z_v where allowed, -∞ elsewhere: softmax of it, over its k largest too, is a distribution on what is allowed (claim COPY-5).

    Parameters
    ----------
    logits : array, (beams, vocab), floating
    allowed : bool, (beams, vocab), as `copy_step` returns it
    dialect : "bert4keras-spaces" puts -1000 in the place of what is not allowed, and of all but the ten largest (here: all that equal the tenth stay)

    Returns
    -------
    array, the shape and dtype of `logits`

    Raises
    ------
    DtypeError, ShapeError, TokenError, ConfigError
        if `logits` are not floating or are balls, `allowed` is not boolean or does not fit, a row allows nothing, or for another dialect.
    """
    _check_dialect(dialect)
    check_floating("logits", logits)
    check_boolean("masked_logits(allowed)", allowed)
    xp = namespace(logits, allowed)
    if tuple(allowed.shape) != tuple(logits.shape) or logits.ndim != 2:
        raise ShapeError(
            "allowed must have the shape of logits", expected=tuple(logits.shape), got=tuple(allowed.shape)
        )
    if not bool(xp.all(xp.any(allowed, axis=1))):
        raise TokenError("no token is allowed", where="masked_logits(allowed)", expected="a true in every row")
    if dialect == "corrected":
        return xp.where(allowed, logits, -xp.inf)
    return xp.where(allowed & top_k_mask(xp.where(allowed, logits, _HIDDEN), _KEPT), logits, _HIDDEN)


class TaggedDecoder(Protocol):
    """What copying asks of a model: a `refimpl.decoding.Decoder` that scores the next token's tag, (batch, 3), beside the token."""

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""

    def start(self, token_ids: Any, mask: Any = None) -> tuple[tuple[Array, Array], Any]:
        """Read prompts (batch, length); return ((logits, tag scores) of the next token, a state)."""

    def advance(self, token_ids: Any, cache: Any) -> tuple[tuple[Array, Array], Any]:
        """Read one more token a row (batch, 1); return the same."""

    def select(self, cache: Any, rows: list[int]) -> Any:
        """The state of the given rows, which may repeat."""


class CopyState(NamedTuple):
    """What a `CopyDecoder` knows of every hypothesis: row r of each part is of hypothesis r."""

    cache: Any  # of the model
    states: Array  # int64 (beams,)
    emitted: Array  # int64 (beams, t)


class CopyDecoder:
    """A `refimpl.decoding.Decoder` whose next-token logits are -∞ wherever `copy_step` does not allow: for `generate` and `beam_search`.

    Parameters
    ----------
    decoder : the model
    source : token ids, (n,), what may be copied, for every prompt
    """

    def __init__(self, decoder: TaggedDecoder, source: Sequence[int]) -> None:
        self._decoder, self._source = decoder, source

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""
        return self._decoder.context

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, CopyState]:
        """Read prompts (batch, length); return the next token's logits (batch, vocab) and a state."""
        (logits, tags), cache = self._decoder.start(token_ids, mask)
        xp, beams = namespace(logits), logits.shape[0]
        nothing = xp.zeros((beams, 0), dtype=xp.int64, device=device_of(logits))
        return self._masked(logits, tags, CopyState(cache, xp.sum(nothing, axis=1), nothing))

    def advance(self, token_ids: Any, cache: CopyState) -> tuple[Array, CopyState]:
        """Read one more token a row (batch, 1); return the next token's logits and the state."""
        (logits, tags), inner = self._decoder.advance(token_ids, cache.cache)
        last = _whole("token_ids", token_ids, logits, (logits.shape[0], 1), logits.shape[1])
        emitted = namespace(last).concat([cache.emitted, last], axis=1)
        return self._masked(logits, tags, CopyState(inner, cache.states, emitted))

    def select(self, cache: CopyState, rows: list[int]) -> CopyState:
        """The state of the given rows, which may repeat: the model's, the spans and the tokens."""
        kept = _whole("rows", list(rows), cache.states, (None,), cache.states.shape[0])
        emitted = namespace(kept).take(cache.emitted, kept, axis=0)
        return CopyState(self._decoder.select(cache.cache, rows), select_states(cache.states, rows), emitted)

    def _masked(self, logits: Array, tags: Array, state: CopyState) -> tuple[Array, CopyState]:
        allowed, states = copy_step(tags, state.states, self._source, state.emitted, vocab_size=logits.shape[1])
        return masked_logits(logits, allowed), state._replace(states=states)
