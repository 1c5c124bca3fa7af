"""How long CPM's tokenizer takes for one line, as the line grows, and what jieba's own search takes for the same words.

    python benchmarks/cpm_tokenizer.py PATH_TO_THE_VOCABULARY [--longest 1000000] [--theirs 16000]

Lines of dictionary words, of rare characters that no dictionary word covers, of Latin letters, spaces, line feeds and emoji, in bytes of UTF-8.
Times are of the process (user and system), so that other programs do not count; `theirs` stops at that many characters, where its time grows
with the square of the length.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
import warnings
from pathlib import Path

from refimpl.text import CPMTokenizer
from refimpl.text.segmentation import OCCURRENCES, segmenter


def lines() -> dict[str, str]:
    """Something to repeat for each kind of line."""
    drawn = random.Random(0)
    words = [word for word, count in segmenter().frequency.items() if count]
    return {
        "dictionary words": "".join(drawn.choice(words) for _ in range(400_000)),
        "one rare character": "鯕",
        "rare characters": "".join(chr(drawn.randrange(0x4E00, 0x9FA5)) for _ in range(400_000)),
        "Latin letters": "a",
        "spaces": " ",
        "line feeds": "\n",
        "emoji": "😀",
    }


def cut_to(pattern: str, nbytes: int) -> str:
    """A line of about so many bytes."""
    characters = nbytes * len(pattern) // len(pattern.encode())
    return (pattern * (characters // len(pattern) + 1))[:characters]


def seconds(function: object, text: str) -> float:
    begin = time.process_time()
    list(function(text))  # type: ignore[operator]
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("--longest", type=int, default=1_000_000)
    parser.add_argument("--theirs", type=int, default=16_000)
    arguments = parser.parse_args()
    tokenizer = CPMTokenizer(arguments.vocabulary)
    begin = time.process_time()
    patterns = lines()
    print(f"jieba's dictionary: {time.process_time() - begin:.2f} s")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    theirs = jieba.Tokenizer()
    theirs.FREQ, theirs.total, theirs.initialized = segmenter().frequency, OCCURRENCES, True
    for name, pattern in patterns.items():
        sizes = [arguments.longest >> shift for shift in (3, 2, 1, 0)]
        texts = [cut_to(pattern, size) for size in sizes]
        ours = [seconds(tokenizer.encode, text) for text in texts]
        print(
            f"{name}: "
            + ", ".join(f"{len(t.encode()) / 1e6:.2f} MB {s:.2f} s" for t, s in zip(texts, ours, strict=True))
        )
        short = [
            cut_to(pattern, len(pattern.encode()) * count // len(pattern))
            for count in (arguments.theirs // 2, arguments.theirs)
        ]
        both = [(seconds(segmenter().cut, text), seconds(theirs.cut, text)) for text in short]
        print(
            "  words alone, ours and theirs: "
            + ", ".join(f"{len(t)} characters {a:.3f} {b:.3f} s" for t, (a, b) in zip(short, both, strict=True))
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
