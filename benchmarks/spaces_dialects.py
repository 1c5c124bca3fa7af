"""How often the published decoding of SPACES says something else than the corrected one: python benchmarks/spaces_dialects.py [--models 500]

Models are those of `validation.hashed`: scores that are a hash of the text so far, 16 tokens, tags that favour copying; sources of 4 to 16 tokens of
2 to 5 kinds; up to 12 tokens are generated. For every width of beam, of the texts of the released code: which are others once states go with their
hypotheses, all else being equal; which are others in the dialect "corrected", ranked without a length penalty; which have a span, by the tags that
made it, that is nowhere in the source; which have a tag that their own scores do not say.
"""

from __future__ import annotations

import argparse
from typing import Any

from refimpl.bert import BertConfig
from refimpl.copying import INSIDE, OUTSIDE
from refimpl.spaces.published import published_search
from refimpl.spaces.seq2seq import Seq2SeqConfig, generate, places_of
from validation.hashed import Hashed, mixed

VOCABULARY, MOST, WIDTHS = 16, 12, (1, 2, 3, 4, 5)
START, END = VOCABULARY - 2, VOCABULARY - 1
CONFIG = Seq2SeqConfig(BertConfig(VOCABULARY, 2, 1, 1), START, END)


def source_of(case: int) -> list[int]:
    """A source whose last token is the end token, as tokenizers make it."""
    kinds, length = 2 + mixed(case, 78) % 4, 4 + mixed(case, 77) % 13
    return [*(mixed(case, 100 + place) % kinds for place in range(length - 1)), END]


def own_tags(model: Hashed, source: list[int], ids: list[int]) -> list[int]:
    """The tags that the model's scores say for a text, with every span looked for in the source."""
    tags: list[int] = []
    span: list[int] = []
    for place, token in enumerate(ids):
        scores = model.scores([START, *ids[:place]])[1].tolist()
        tag = max(range(3 if span else 2), key=lambda tag: (scores[tag], -tag))
        if tag == INSIDE and all(source[i : i + len(span)] != span for i in range(len(source) - len(span))):
            tag = 1
        tags.append(tag)
        span = [] if tag == OUTSIDE else [*span, token] if tag == INSIDE else [token]
    return tags


def compared(case: int, beams: int) -> list[bool]:
    """The four comparisons of one model."""
    model, source = Hashed(case, VOCABULARY, 1), source_of(case)
    options: dict[str, Any] = {"start": START, "end": END, "beams": beams, "max_new_tokens": MOST}
    found, carried = (published_search(model, source, **options, carried=c) for c in (False, True))
    corrected = generate(None, CONFIG, source, beams=beams, max_new_tokens=MOST, length_penalty=0.0, decoder=model)[0]  # type: ignore[arg-type]
    places = places_of(source, found.ids, found.tags)
    broken = any(tag != OUTSIDE and place is None for tag, place in zip(found.tags, places, strict=True))
    others = [found.ids != carried.ids, found.ids != corrected.ids]
    return [*others, broken, found.tags != own_tags(model, source, found.ids)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500)
    models = parser.parse_args().models
    print("| beams | other with carried states | other when corrected | a span not in the source | a tag not its own |")
    print("|---|---|---|---|---|")
    for beams in WIDTHS:
        found = [compared(case, beams) for case in range(models)]
        shares = (f"{100 * sum(part) / models:.1f} %" for part in zip(*found, strict=True))
        print(f"| {beams} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
