"""Zero-shot classification as CPM's own scripts do it: which label makes the text most likely.

    loss(label) = mean over the text's tokens t_i of  -log p(t_i | template[label], t_1..t_{i-1})
    answer = the first label of the least loss

The label is in the prompt, and the *text* is scored, never the label: so labels of different lengths compare fairly, and the text's own
likelihood is the same on all sides. Prompt and text are encoded each for itself, and the ids are put together.

A task is a TOML file: those of CPM's scripts (TNEWS, IFLYTEK, OCNLI) are in `refimpl/prompts/zero_shot`, one's own are of the same form.
`template` has `{label}` and may have fields of an example; `text` is the field that is scored; with `spared`, its tokens are cut to the
position table less so many; `label_fields` are looked at for the true label; examples whose label is in `skip` are left out, and a label
that is not known means `otherwise`.

What the scripts do beside that: TNEWS and IFLYTEK are not asked for the best of all labels, but of four, the true one and three drawn with
Python's `random.sample`, again until the true one is not among them (`candidates=4`, with the script's seed; its README says the opposite
of the code). Batches that are not full are dropped there; here no example is.

Reference: Z. Zhang et al., arXiv 2012.00413, section 3, and github.com/TsinghuaAI/CPM-1-Generate at 3f816d1, zero-shot-cls.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError, TextError, TokenError
from refimpl.fewshot import PROMPTS, read_toml
from refimpl.fewshot_scores import Row, log_probabilities
from refimpl.parameters import is_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from refimpl.model import Model

__all__ = ["Label", "Prediction", "Task", "classify", "examples", "losses", "read_task", "tasks", "with_labels"]

TASKS = PROMPTS / "zero_shot"
FIELD = re.compile(r"\{(\w+)\}")


class Label(NamedTuple):
    """A label: what data call it, and what the prompt calls it."""

    value: str
    name: str
    chinese: str = ""  # another name for the prompt, where there is one


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task, as a file describes it."""

    name: str
    title: str
    source: str
    template: str
    text: str
    labels: tuple[Label, ...]
    label_fields: tuple[str, ...]
    spared: int | None = None
    skip: tuple[str, ...] = ()
    otherwise: str | None = None
    seed: int = 0

    def prompt(self, example: Mapping[str, Any], name: str) -> str:
        """The template with the label's name and the example's fields in their places. Raises TextError for a field that is not there."""

        def value(found: re.Match[str]) -> str:
            return name if found[1] == "label" else self.field(example, found[1])

        return FIELD.sub(value, self.template)

    def field(self, example: Mapping[str, Any], field: str) -> str:
        """A text of an example. Raises TextError where there is none."""
        value = example.get(field)
        if not isinstance(value, str) or not value:
            got = f"{field} = {value!r}" if field in example else f"the fields {', '.join(example)}"
            raise TextError(
                "the example has no such text", where=f"task {self.name}", expected=f"a text {field!r}", got=got
            )
        return value

    def truth(self, example: Mapping[str, Any]) -> Label | None:
        """The true label of an example; None where it has none. Raises TextError for one that is not the task's."""
        values = [str(example[field]) for field in self.label_fields if example.get(field) is not None]
        known = [label for value in values for label in self.labels if value and value in label]
        if known or not values:
            return known[0] if known else None
        if self.otherwise is not None:
            return next(label for label in self.labels if label.value == self.otherwise)
        expected = ", ".join(label.value for label in self.labels[:5])
        raise TextError("unknown label", where=f"task {self.name}", expected=f"{expected}, ..", got=", ".join(values))

    def skipped(self, example: Mapping[str, Any]) -> bool:
        """Whether the example is left out."""
        return any(example.get(field) in self.skip for field in self.label_fields)


class Prediction(NamedTuple):
    """What the model says of one example."""

    truth: Label | None
    predicted: Label
    candidates: list[Label]
    losses: list[float]  # one a candidate: the mean of -log p over the text's tokens
    tokens: int  # of the text

    @property
    def tied(self) -> bool:
        """Whether another candidate has exactly the same loss."""
        return self.losses.count(min(self.losses)) > 1

    @property
    def correct(self) -> bool | None:
        """Whether the true label was predicted; None where the example has none."""
        return None if self.truth is None else self.truth.value == self.predicted.value


# --- files ----------------------------------------------------------------------------------------------------------------------------


def tasks() -> list[Task]:
    """The tasks that come with this package, by name."""
    return [_read(path) for path in sorted(TASKS.glob("*.toml"))]


def read_task(name: str | Path) -> Task:
    """The task called `name` among those that come with this package, or that of a TOML file. Raises ConfigError for anything else."""
    given, path = TASKS / f"{name}.toml", Path(name)
    known = sorted(each.stem for each in TASKS.glob("*.toml"))
    if str(name) in known:
        return _read(given)
    if not path.is_file():
        expected = f"one of {', '.join(known)}; or a TOML file"
        raise ConfigError("no such task", where="fewshot classify", expected=expected, got=str(name))
    return _read(path)


def _read(path: Path) -> Task:
    required = dict.fromkeys(("name", "title", "source", "template", "text"), str) | {
        "labels": list,
        "label_fields": list,
    }
    fields = read_toml(path, required, {"spared": int, "skip": list, "otherwise": str, "seed": int})
    if FIELD.findall(fields["template"]).count("label") != 1:
        got = repr(fields["template"])
        raise ConfigError(
            "the template does not name the label", where=path, expected="{label} once in template", got=got
        )
    labels = tuple(_label(path, entry) for entry in fields["labels"])
    values = _check_labels(labels, f"{path}, labels")
    if fields.get("otherwise", values[0]) not in values:
        raise ConfigError(
            "unknown label", where=f"{path}, otherwise", expected=", ".join(values), got=fields["otherwise"]
        )
    fields |= {name: tuple(fields[name]) for name in ("label_fields", "skip") if name in fields}
    return Task(**(fields | {"labels": labels}))


def _check_labels(labels: Sequence[Label], where: object) -> list[str]:
    """What data call the labels; ConfigError unless they are two or more, all different."""
    values = [label.value for label in labels]
    if len(values) < 2 or len(set(values)) < len(values):
        raise ConfigError("a task needs labels that differ", where=where, expected="two or more", got=values)
    return values


def _label(where: object, entry: Any) -> Label:
    fields = entry if isinstance(entry, dict) else {}
    if not {"value", "name"} <= set(fields) <= set(Label._fields) or not all(
        isinstance(v, str) for v in fields.values()
    ):
        raise ConfigError(
            "not a label", where=f"{where}, labels", expected="strings value and name, and perhaps chinese", got=entry
        )
    return Label(**fields)


def with_labels(task: Task, path: Path) -> Task:
    """The task with the labels of CLUE's labels.json, one object a line: `label`, and `label_desc` or `label_des`, which the prompt gets.

    Raises TextError for a line that has no such fields; ConfigError for fewer than two labels, for two that are equal, and where the label that
    the task takes for unknown ones is not among them.
    """
    labels = []
    for number, entry in enumerate(examples(path), 1):
        names = [entry[field] for field in ("label_desc", "label_des") if isinstance(entry.get(field), str)]
        if "label" not in entry or not names:
            expected, got = "label, and label_desc or label_des", ", ".join(entry)
            raise TextError("not a line of a labels.json", where=f"{path}, line {number}", expected=expected, got=got)
        labels.append(Label(str(entry["label"]), names[0]))
    values = _check_labels(labels, path)
    if task.otherwise is not None and task.otherwise not in values:
        expected = f"{task.otherwise}, which the task {task.name} takes for any other label"
        raise ConfigError("a label is missing", where=path, expected=expected, got=", ".join(values))
    return dataclasses.replace(task, labels=tuple(labels))


def examples(lines: Path | Iterable[str]) -> Iterator[dict[str, Any]]:
    """The examples of a file of JSON objects, one a line, or of an iterable of such lines, as they are read; blank lines are passed over.

    Raises TextError that names the line.
    """
    where, given = (lines, _lines(lines)) if isinstance(lines, Path) else ("standard input", lines)
    for number, line in enumerate(given, 1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
        except ValueError as error:
            raise _bad_line(where, number, error) from None
        if not isinstance(example, dict):
            raise _bad_line(where, number, type(example).__name__)
        yield example


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        expected, got = "a file of JSON objects in UTF-8, one a line", f"{type(error).__name__}: {error}"
        raise TextError("the file cannot be read", where=path, expected=expected, got=got) from None


def _bad_line(where: object, number: int, got: object) -> TextError:
    return TextError("a line is no JSON object", where=f"{where}, line {number}", expected="one object a line", got=got)


# --- classification -------------------------------------------------------------------------------------------------------------------


def classify(
    model: Model,
    task: Task,
    given: Iterable[Mapping[str, Any]],
    *,
    candidates: int | None = None,
    seed: int | None = None,
    names: str = "name",
    length: int | None = None,
) -> Iterator[Prediction]:
    """Yield a prediction for each example, as it is made: the first label of the least loss; examples that the task skips are left out.

    Parameters
    ----------
    model : a loaded GPT-2 with a tokenizer
    task : see `read_task`
    given : examples, for instance `examples(path)`
    candidates : None: all labels; n: n - 1 drawn labels and, last, the true one, as CPM's scripts do with n = 4
    seed : of that drawing; None: the script's
    names : "name" or "chinese": which of a label's names the prompt gets
    length : how many positions a row may take, the script's seq_length; None: the model's position table

    Raises
    ------
    ConfigError, TextError, TokenError
        for options out of range; at the example, for one without its text, of an unknown label, too long, or without the label that is to
        be among the candidates.
    """
    _check_options(task, candidates, names)
    generator = random.Random(task.seed if seed is None else seed)
    for example in given:
        if task.skipped(example):
            continue
        truth = task.truth(example)
        labels = list(task.labels) if candidates is None else _drawn(task, truth, candidates, generator)
        found = losses(model, task, example, labels, names=names, length=length)
        values = [value for value, _ in found]
        yield Prediction(truth, labels[values.index(min(values))], labels, values, found[0][1])


def _check_options(task: Task, candidates: int | None, names: str) -> None:
    if names not in ("name", "chinese"):
        raise ConfigError("unknown names", where="classify(names=...)", expected="'name' or 'chinese'", got=repr(names))
    if any(not getattr(label, names) for label in task.labels):
        raise ConfigError("the task has no such names", where=f"task {task.name}", expected="name", got=names)
    if candidates is not None and not (is_positive(candidates) and 2 <= candidates <= len(task.labels)):
        expected = f"2 <= candidates <= {len(task.labels)}, or None for all labels"
        raise ConfigError(
            "candidates must be a whole number", where="classify", expected=expected, got=repr(candidates)
        )


def _drawn(task: Task, truth: Label | None, count: int, generator: random.Random) -> list[Label]:
    """Labels drawn until the true one is not among them, and then the true one, by the script's calls of `random`."""
    if truth is None:
        remedy = "leave out candidates: all labels are compared then"
        raise TextError(
            "the true label is to be a candidate, and the example has none", where=f"task {task.name}", remedy=remedy
        )
    drawn = generator.sample(task.labels, count - 1)
    while truth in drawn:
        drawn = generator.sample(task.labels, count - 1)
    return [*drawn, truth]


def losses(
    model: Model,
    task: Task,
    example: Mapping[str, Any],
    labels: Sequence[Label],
    *,
    names: str = "name",
    length: int | None = None,
) -> list[tuple[float, int]]:
    """(mean of -log p over the text's tokens, their number) for each label; arguments and errors as `classify`."""
    limit = model.config.n_positions if length is None else length
    text = model._tokenizer().encode(task.field(example, task.text))
    if task.spared is not None:
        text = text[: max(0, limit - task.spared)]
    rows = []
    for label in labels:
        start = model.prompt_ids(task.prompt(example, getattr(label, names)))
        if len(start) + len(text) >= limit or not text:
            raise TokenError(
                "the example does not fit into the position table",
                where=f"task {task.name}, label {label.value}",
                expected=f"fewer than {limit} tokens, and at least one of the text",
                got=f"{len(start)} of the prompt, {len(text)} of the text",
                remedy="shorten the text, or load the model with more positions (refimpl.load(positions=...))",
            )
        rows.append(Row((*start, *text), len(start)))
    return [(-math.fsum(values) / len(values), len(values)) for values in log_probabilities(model, rows)]
