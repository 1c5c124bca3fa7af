"""Real implementations, as the package indexes have them, tried on the golden vectors.

    python -m validation.targets                    # the list
    python -m validation.targets torch              # everything that is checked of PyTorch
    python -m validation.targets onnxruntime --component gelu --json

A target is a module here that imports its framework and has one function, `trials`: what of the package is called for which component, in which
dtypes. An adapter turns arrays and names arguments; all arithmetic is the package's own. A call that the package has no way to be asked
raises `NoSuchCallError`, and is told as left out, with the reason. Nothing is imported until a target is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError
from validation import conformance, vectors
from validation.targets.trial import NoSuchCallError, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from validation.conformance import Report

__all__ = ["TARGETS", "NoSuchCallError", "Outcome", "Target", "Trial", "run", "target"]


@dataclass(frozen=True)
class Target:
    """An implementation that is checked: where its adapter is, and what has to be installed for it."""

    name: str
    module: str  # below validation.targets
    packages: tuple[str, ...]  # distributions whose versions are told
    install: str

    def trials(self) -> list[Trial]:
        """What is checked of it; raises ConfigError that says what to install where its packages are missing."""
        try:
            found: Callable[[], list[Trial]] = importlib.import_module(f"validation.targets.{self.module}").trials
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("validation", "refimpl", "weights_io"):
                raise
            raise ConfigError(
                f"the target {self.name} is not installed here",
                expected=", ".join(self.packages),
                got=f"no module named {error.name}",
                remedy=f'{self.install}   (beside this project and its extra "validation")',
            ) from None
        return [trial for trial in found() if trial.component in vectors.names()]

    def versions(self) -> dict[str, str]:
        """The versions of its packages that are installed."""
        found = {}
        for name in self.packages:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "unknown"
        return found


_FILES = "pip install -r validation/oracles/requirements-{}.txt"
_BERT4KERAS = "pip install -r validation/oracles/requirements-tf-models.txt && pip install --no-deps bert4keras==0.11.5"
TARGETS: dict[str, Target] = {
    each.name: each
    for each in (
        Target("torch", "torch_functional", ("torch",), _FILES.format("transformers")),
        Target("transformers", "hugging_face", ("transformers", "torch"), _FILES.format("transformers")),
        Target("performer-pytorch", "performer_pytorch", ("performer-pytorch", "torch"), _FILES.format("attention")),
        Target("x-transformers", "x_transformers", ("x-transformers", "torch"), _FILES.format("attention")),
        Target("entmax", "entmax", ("entmax", "torch"), _FILES.format("attention")),
        Target("onnxruntime", "onnx_runtime", ("onnxruntime", "onnx"), _FILES.format("onnxruntime")),
        Target("jax", "jax_nn", ("jax", "jaxlib"), _FILES.format("keras3")),
        Target("tensorflow", "tensorflow_nn", ("tensorflow-cpu",), _FILES.format("tf-models")),
        Target("keras", "keras_ops", ("keras",), _FILES.format("keras3")),
        Target("bert4keras", "bert4keras", ("bert4keras", "tensorflow-cpu", "tf-keras"), _BERT4KERAS),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What became of one trial: the report on the calls that could be made, and why others could not."""

    trial: Trial
    report: Report
    left_out: dict[str, str]  # id -> why the package has no way to be asked

    @property
    def word(self) -> str:
        """One of "conforms", "departs" and, where no call could be made, "not comparable"."""
        return "conforms" if self.report.passed else "departs" if self.report.rows else "not comparable"

    def __str__(self) -> str:
        reasons = dict.fromkeys(self.left_out.values())
        told = [
            f"left out: {sum(why == each for why in self.left_out.values())} cases, because {each}" for each in reasons
        ]
        return "\n".join([f"== {self.trial.name}", str(self.report), *told])

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        return {"trial": self.trial.name, "outcome": self.word, "left_out": self.left_out, **self.report.as_json()}


def target(name: str) -> Target:
    """The target called `name`; raises ConfigError that lists the names there are."""
    if name not in TARGETS:
        raise ConfigError("unknown target", expected=", ".join(TARGETS), got=repr(name))
    return TARGETS[name]


def run(name: str, *, component: str | None = None, dtype: str | None = None) -> Iterator[Outcome]:
    """Try a target on the golden vectors; every trial in every dtype, or those of one component or dtype.

    Raises
    ------
    ConfigError
        for an unknown target, one whose packages are missing, or a component or dtype of which it has no trial.
    """
    trials = target(name).trials()
    chosen = [
        (trial, each)
        for trial in trials
        for each in trial.dtypes
        if component in (None, trial.component) and dtype in (None, each)
    ]
    if not chosen:
        pairs = dict.fromkeys(f"{trial.component} ({', '.join(trial.dtypes)})" for trial in trials)
        raise ConfigError(f"nothing of {name} is checked there", expected="; ".join(pairs), got=f"{component}, {dtype}")
    return (_outcome(trial, each) for trial, each in chosen)


def _outcome(trial: Trial, dtype: str) -> Outcome:
    left_out: dict[str, str] = {}
    report = conformance.check(
        trial.function, trial.component, dialect=trial.dialect, dtype=dtype, convert=trial.convert
    )
    for row in report.rows:
        name, _, reason = str(row.verdict.got).partition(": ")
        if row.verdict.word == "raised" and name == NoSuchCallError.__name__:
            left_out[row.id] = reason
    rows = tuple(row for row in report.rows if row.id not in left_out)
    return Outcome(trial, dataclasses.replace(report, announced=report.announced - len(left_out), rows=rows), left_out)
