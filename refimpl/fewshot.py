r"""Few-shot prompts: demonstrations, a query, and the answer that the model writes or prefers.

    answer = what is generated after  prompt[{query} := query]  up to the first stop text
    choose: argmax over choices c of  Σ log p(c_i | prompt, c_1..c_{i-1})   or of its mean over the tokens of c

A prompt is a TOML file: one of those published with CPM-LM, which are in `refimpl/prompts`, or one's own::

    name = "capitals"
    title = "Capitals"
    source = "who published it, and where"
    stop = "\n"
    prompt = '''
    中国的首都是北京
    {query}的首都是'''

    [[published]]
    query = "日本"
    answer = "东京"

    [options]
    max_new_tokens = 16

`{query}` stands once in `prompt`; other braces are text. `stop` is a string or a list of strings, a newline where it is left out.
`published` are queries with the answers that the source gives, and `options` what it decodes with; both may be left out.

References: J. Su, "Trying the largest Chinese GPT-2 so far" (in Chinese), Scientific Spaces 7912 (2020), and github.com/bojone/bert4keras,
examples/basic_language_model_cpm_lm.py; Z. Zhang et al., "CPM: a large-scale generative Chinese pre-trained language model", arXiv 2012.00413.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl import backend as backends
from refimpl.errors import ConfigError, TextError
from refimpl.fewshot_scores import Choice, Chosen, choose
from refimpl.parameters import is_positive
from refimpl.text.stopping import stop_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from refimpl.model import Continuation, Model

__all__ = [
    "PROMPTS",
    "Choice",
    "Chosen",
    "Prompt",
    "Published",
    "choose",
    "complete",
    "prompts",
    "read",
    "read_toml",
    "search",
    "texts",
]

PROMPTS = Path(__file__).parent / "prompts"
PLACEHOLDER = "{query}"
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "max_new_tokens": int,
    "temperature": (int, float),
    "top_k": int,
    "top_p": (int, float),
}


class Published(NamedTuple):
    """A query of the source, and the answer that it gives, or None."""

    query: str
    answer: str | None


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A few-shot prompt, as a file describes it."""

    name: str
    title: str
    source: str
    prompt: str
    stop: tuple[str, ...] = ("\n",)
    published: tuple[Published, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def text(self, query: str) -> str:
        """The prompt with `query` in its place. Raises TextError for an empty query."""
        if not query:
            raise TextError(
                "the query is empty", where=f"prompt {self.name}", expected=f"what {PLACEHOLDER} stands for"
            )
        return self.prompt.replace(PLACEHOLDER, query)


# --- files ----------------------------------------------------------------------------------------------------------------------------


def read_toml(path: Path, required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a TOML file, of which `required` must be there and nothing but these and `optional` may; each maps a name to its type.

    Raises ConfigError that names the file and the field.
    """
    try:
        fields = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the file cannot be read as TOML", where=path, expected="TOML in UTF-8", got=got) from None
    known = {**required, **optional}
    missing, strange = [n for n in required if n not in fields], [n for n in fields if n not in known]
    if missing or strange:
        expected = f"{', '.join(required)}; and, where wanted, {', '.join(optional)}"
        got = "; ".join(
            f"{what} {', '.join(names)}" for what, names in (("without", missing), ("unknown", strange)) if names
        )
        raise ConfigError("the file's fields are not those of this format", where=path, expected=expected, got=got)
    for name, value in fields.items():
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise _wrong(path, name, f"a {_called(known[name])}", value)
    return fields


def _called(kind: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = {str: "string", int: "whole number", float: "number", list: "list", dict: "table"}
    return " or ".join(names[each] for each in kinds)


def _wrong(path: Path, field: str, expected: str, got: Any, remedy: str | None = None) -> ConfigError:
    return ConfigError(
        "a field of the file is wrong", where=f"{path}, {field}", expected=expected, got=repr(got), remedy=remedy
    )


def read(name: str | Path) -> Prompt:
    """The prompt called `name` among those that come with this package, or that of a TOML file.

    Raises ConfigError for a name that is neither, and for a file that is not of this format.
    """
    given = PROMPTS / f"{name}.toml"
    if str(name) in _names():
        return _read(given)
    path = Path(name)
    if not path.is_file():
        expected = f"one of {', '.join(_names())}; or a TOML file"
        raise ConfigError(
            "no such prompt", where="fewshot", expected=expected, got=str(name), remedy="refimpl fewshot list"
        )
    return _read(path)


def _names() -> list[str]:
    return sorted(path.stem for path in PROMPTS.glob("*.toml"))


def prompts() -> list[Prompt]:
    """The prompts that come with this package, by name."""
    return [read(name) for name in _names()]


def _read(path: Path) -> Prompt:
    """One file, checked."""
    required = {"name": str, "title": str, "source": str, "prompt": str}
    fields = read_toml(path, required, {"stop": (str, list), "published": list, "options": dict})
    count = fields["prompt"].count(PLACEHOLDER)
    if count != 1:
        remedy = f"put {PLACEHOLDER} where the question goes"
        raise _wrong(path, "prompt", f"{PLACEHOLDER} once", f"{PLACEHOLDER} {count} times", remedy)
    stop = fields.get("stop", "\n")
    if stop in ("", []) or (isinstance(stop, list) and not all(isinstance(each, str) and each for each in stop)):
        raise _wrong(path, "stop", r'a string such as "\n", or a list of some, none of them empty', stop)
    published = tuple(_published(path, entry) for entry in fields.get("published", []))
    fields |= {"stop": stop_strings(stop), "published": published, "options": _options(path, fields.get("options", {}))}
    return Prompt(**fields)


def _published(path: Path, entry: Any) -> Published:
    expected = "tables with a string query, and perhaps a string answer"
    if not isinstance(entry, dict) or not {"query"} <= set(entry) <= {"query", "answer"}:
        raise _wrong(path, "published", expected, entry)
    if not all(isinstance(value, str) and value for value in entry.values()):
        raise _wrong(path, "published", expected, entry)
    return Published(entry["query"], entry.get("answer"))


def _options(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in OPTIONS:
            raise _wrong(path, "options", ", ".join(OPTIONS), name)
        if not isinstance(value, OPTIONS[name]) or isinstance(value, bool):
            raise _wrong(path, f"options.{name}", f"a {_called(OPTIONS[name])}", value)
    return options


# --- answers --------------------------------------------------------------------------------------------------------------------------


class _OneEach:
    """A generator of random numbers for each row: what a row draws does not depend on its company."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [backends.generator(seed) for seed in seeds]

    def random(self, rows: int) -> Any:  # -> (rows,)
        return np.array([generator.random() for generator in self._generators[:rows]])


def texts(prompt: Prompt, queries: Sequence[str]) -> list[str]:
    """The prompt's text for each query; without queries, for the published ones. Raises TextError if there are none."""
    asked = list(queries) or [each.query for each in prompt.published]
    if not asked:
        raise TextError(
            "there is no query", where=f"prompt {prompt.name}", expected="a query: the file has no published one"
        )
    return [prompt.text(query) for query in asked]


def complete(
    model: Model,
    prompt: Prompt,
    queries: Sequence[str] = (),
    *,
    samples: int = 1,
    seed: int = 0,
    rows: int = 16,
    advance: Callable[[], None] = lambda: None,
    **options: Any,
) -> Iterator[list[Continuation]]:
    """Yield the answers to each query, `samples` of each, in the order of the queries.

    Parameters
    ----------
    model : a loaded GPT-2 with a tokenizer
    prompt : see `read`
    queries : texts; none: the published queries
    samples : answers a query; the k-th draws from seed + k, as `Model.stream` with that seed does, whatever is read beside it
    rows : so many answers are generated side by side, at most (and all samples of a query always); what they have in common is read once
    advance : called after each query
    options : max_new_tokens, temperature, top_k, top_p, as `Model.stream`, instead of the prompt's own

    Raises
    ------
    ConfigError, TextError, TokenError, TokenizerError
        for options out of range, no query, a prompt longer than the position table, no tokenizer: before the first answer.
    """
    for name, value in (("samples", samples), ("rows", rows)):
        if not is_positive(value):
            raise ConfigError(f"{name} must be a whole number from 1", where="fewshot.complete", got=repr(value))
    asked, size = texts(prompt, queries), max(1, rows // samples)
    chosen = {**prompt.options, **{name: value for name, value in options.items() if value is not None}}
    for start in range(0, len(asked), size):
        group = asked[start : start + size]
        repeated = [text for text in group for _ in range(samples)]
        rng = _OneEach([seed + number for _ in group for number in range(samples)])
        found = model.continuations(repeated, rng=rng, stop_text=prompt.stop, **chosen)
        for first in range(0, len(found), samples):
            advance()
            yield found[first : first + samples]


def search(
    model: Model,
    prompt: Prompt,
    query: str,
    *,
    beams: int,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
) -> list[tuple[Continuation, float]]:
    """The answers that `Model.beam_search` finds, best first, with their scores: a hypothesis is complete with the prompt's stop text."""
    limit = prompt.options.get("max_new_tokens") if max_new_tokens is None else max_new_tokens
    found = model.beam_search(
        prompt.text(query), beams=beams, length_penalty=length_penalty, max_new_tokens=limit, stop_text=prompt.stop
    )
    return [(model.hypothesis_text(each, stop_text=prompt.stop), each.score) for each in found]
