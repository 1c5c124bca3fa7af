"""Chinese text cut into words exactly as jieba cuts it, in time proportional to its length.

    words  = argmax Σ log(n(w) / N)                                   over all ways to cut a block into words of the dictionary
    states = argmax log p(s₁) + Σ log p(sₜ | sₜ₋₁) + Σ log p(xₜ | sₜ)   over the paths in {B, M, E, S}, for what no word covers

A block is a run of Han characters (U+4E00 to U+9FD5), ASCII letters, digits and `+#&._%-`. It is cut by the dictionary first; single characters
that come out side by side are joined and cut again by a hidden Markov model, whose states say that a character begins a word, is inside, ends it
or stands alone, unless the dictionary has them as one word. Everything outside blocks is cut into single characters, except that CR LF stays one.
Without the model (`hidden=False`, jieba's `HMM=False`) single characters stay so, but ASCII letters and digits side by side are joined.

Own words, with how often each occurs, make another segmenter (`Segmenter.with_words`); N grows by every number, also where a word was there before.

Dictionary, probabilities and the extent of blocks are those of the package `jieba`; the two searches are written here, for three reasons. Its own
second search copies the path so far at every character, which takes time in the square of a run: minutes for a megabyte of rare characters. It keeps
its dictionary as a file in the folder for temporary files, from which it reads back whatever lies there. And what another part of a program does
to its dictionary (`jieba.add_word`) would change token ids. Equal probabilities are decided as it decides them: the longer word, the later letter.

Reference: the package jieba 0.42.1, `jieba/__init__.py` and `jieba/finalseg/__init__.py`.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Segmenter", "segmenter"]

INSTALL = 'pip install "jieba>=0.42.1,<0.43"   (the extra "text")'
OCCURRENCES = 60_101_967  # the sum over jieba's own dictionary: with another one, the words are others
LINE = re.compile(r"^(.+?)( [0-9]+)?( [a-z]+)?$")  # of a user dictionary, as jieba reads it
_LOCK = threading.Lock()


class Segmenter(NamedTuple):
    """What a segmentation is made from; `segmenter()` has jieba's."""

    frequency: dict[str, int]  # every word's number of occurrences, and 0 for every beginning of a word that is none
    blocks: re.Pattern[str]  # what is cut into words; one group around the whole, here and below
    spaces: re.Pattern[str]  # what stays in one piece between blocks
    han: re.Pattern[str]  # what the second search cuts; the rest of a run is cut by `latin`
    latin: re.Pattern[str]
    start: dict[str, float]  # log p(s₁)
    follow: dict[str, dict[str, float]]  # log p(sₜ | sₜ₋₁), first sₜ₋₁
    emit: dict[str, dict[str, float]]  # log p(xₜ | sₜ), first sₜ
    before: dict[str, str]  # the states that may stand before one
    never: float  # log p of what no table has
    total: int = OCCURRENCES  # N

    def cut(self, text: str, *, hidden: bool = True) -> Iterator[str]:  # str -> its words in order, which join to it
        """argmax Σ log(n(w) / N) in every block; single characters elsewhere. `hidden`: whether the second search takes part."""
        for matched, part in _alternating(self.blocks, text):
            if matched:
                yield from self._words(part) if hidden else self._dictionary_words(part)
                continue
            for whole, rest in _alternating(self.spaces, part):
                yield from [rest] if whole else rest

    def with_words(self, lines: Iterable[str]) -> Segmenter:
        """The segmenter that also knows the words of a user dictionary: lines of a word, how often it occurs, and its kind, the last two optional.

        A word without a number is given the least with which it stays in one piece. What jieba does with the lines, it does in their order; so
        is it here. Raises TokenizerError for a line that begins with no word, and for 0 occurrences, by which jieba means a word to be split.
        """
        made = self._replace(frequency=dict(self.frequency))
        for number, line in enumerate(lines, 1):
            if stripped := line.strip().lstrip("\ufeff"):
                made = made._with_word(*_told(stripped, number))
        return made

    def _with_word(self, word: str, occurrences: int | None) -> Segmenter:
        """One word more, in this segmenter's own dictionary."""
        if occurrences is None:
            product = 1.0
            for part in self.cut(word, hidden=False):
                product *= self.frequency.get(part, 1) / self.total
            occurrences = max(int(product * self.total) + 1, self.frequency.get(word, 0))
        self.frequency[word] = occurrences
        for end in range(1, len(word)):
            self.frequency.setdefault(word[:end], 0)
        return self._replace(total=self.total + occurrences)

    def _dictionary_words(self, block: str) -> Iterator[str]:
        """The most probable words of a block; ASCII letters and digits that come out one by one are joined."""
        ends = self._ends(block)
        begin = joined = 0  # block[joined:begin] are such letters
        while begin < len(block):
            end = ends[begin]
            if end - begin > 1 or not (block[begin].isascii() and block[begin].isalnum()):
                yield from filter(None, (block[joined:begin], block[begin:end]))
                joined = end
            begin = end
        yield from filter(None, (block[joined:],))

    def _words(self, block: str) -> Iterator[str]:
        """The most probable words of a block, and what becomes of the single characters between longer ones."""
        ends = self._ends(block)
        begin = run = 0
        while begin < len(block):
            end = ends[begin]
            if end - begin > 1:
                yield from self._run(block[run:begin])
                yield block[begin:end]
                run = end
            begin = end
        yield from self._run(block[run:])

    def _ends(
        self, block: str
    ) -> list[int]:  # str (n characters) -> where the word ends that begins at each, were there a word
        """Dynamic programming from the end: best[k] = max log(n(w) / N) + best[k + |w|] over the words w that begin at k."""
        total, frequency = math.log(self.total), self.frequency
        best, ends = [0.0] * (len(block) + 1), [0] * len(block)
        for k in range(len(block) - 1, -1, -1):
            found, end = [], k + 1
            while end <= len(block) and (word := block[k:end]) in frequency:
                if frequency[word]:
                    found.append((math.log(frequency[word]) - total + best[end], end))
                end += 1
            best[k], ends[k] = max(found) if found else (math.log(1) - total + best[k + 1], k + 1)
        return ends

    def _run(self, run: str) -> Iterator[str]:
        """The words of single characters side by side."""
        if len(run) < 2 or self.frequency.get(run):
            yield from run
            return
        for matched, part in _alternating(self.han, run):
            if matched:
                yield from self._spelled(part)
            else:
                yield from filter(None, self.latin.split(part))

    def _spelled(self, run: str) -> Iterator[str]:
        """Cut after every character whose state is E or S."""
        begin = 0
        for end, state in enumerate(self._states(run), 1):
            if state in "ES":
                yield run[begin:end]
                begin = end

    def _states(self, run: str) -> list[str]:  # str (n characters, n >= 1) -> n letters of B, M, E, S
        """The most probable path that ends in E or S: from each state the one before it is kept, not the path that led there."""
        letters, never = tuple(self.before), self.never
        scores = {letter: self.start[letter] + self.emit[letter].get(run[0], never) for letter in letters}
        steps = []
        for character in run[1:]:
            reached = {
                letter: max(
                    (
                        scores[last] + self.follow[last][letter] + self.emit[letter].get(character, never),
                        last,
                    )
                    for last in self.before[letter]
                )
                for letter in letters
            }
            scores = {letter: score for letter, (score, _) in reached.items()}
            steps.append({letter: last for letter, (_, last) in reached.items()})
        path = [max((scores[letter], letter) for letter in "ES")[1]]
        for step in reversed(steps):
            path.append(step[path[-1]])
        return path[::-1]


def _told(line: str, number: int) -> tuple[str, int | None]:
    """The word of a line of a user dictionary, and how often it occurs."""
    found = LINE.match(line)
    if found is None or (found[2] and not int(found[2])):
        raise TokenizerError(
            "a line of the user dictionary cannot be used",
            where=f"line {number}",
            expected="a word; then, if wanted, how often it occurs, at least once, and its kind in small letters",
            got=ascii(line)[:80],
        )
    return found[1], int(found[2]) if found[2] else None


def _alternating(pattern: re.Pattern[str], text: str) -> Iterator[tuple[bool, str]]:
    """The parts of a text that the pattern matches (True) and those between them, without empty ones."""
    for number, part in enumerate(pattern.split(text)):
        if part:
            yield bool(number % 2), part


def segmenter() -> Segmenter:
    """The segmenter with jieba's dictionary and probabilities, made once in a process; raises TokenizerError without the package."""
    with _LOCK:
        return _made()


@functools.cache
def _made() -> Segmenter:
    jieba, finalseg = _imported()
    with Path(jieba.__file__).with_name(jieba.DEFAULT_DICT_NAME).open("rb") as file:
        frequency, total = jieba.Tokenizer.gen_pfdict(file)
    if total != OCCURRENCES:
        raise TokenizerError(
            "the dictionary of jieba is not the one whose words CPM was trained on",
            where=jieba.__file__,
            expected=f"{OCCURRENCES} occurrences in dict.txt, as in jieba 0.42.1",
            got=total,
            remedy=INSTALL,
        )
    return Segmenter(
        frequency,
        jieba.re_han_default,
        jieba.re_skip_default,
        finalseg.re_han,
        finalseg.re_skip,
        finalseg.start_P,
        finalseg.trans_P,
        finalseg.emit_P,
        finalseg.PrevStatus,
        finalseg.MIN_FLOAT,
    )


def _imported() -> tuple[Any, Any]:
    """jieba, whose source warns of its escapes and of the module by which it finds its files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import jieba
            from jieba import finalseg
    except ImportError:
        raise TokenizerError("CPM's tokenizer needs the library `jieba`", remedy=INSTALL) from None
    return jieba, finalseg
