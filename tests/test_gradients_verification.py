"""The checks of hand-written pullbacks: that there are some for every rule, and that wrong pullbacks do not pass them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import refimpl
from refimpl import activation, backend, errors, favor, gradients, softmax
from refimpl.gradients import RULES, Rule
from refimpl.trees import leaves, mapped
from validation import checks
from validation import gradients as verification
from validation.claims.registry import Setting
from validation.gradients import checking
from validation.gradients.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

SURROGATES: set[str] = set()  # rules that say that they are no derivatives


def _every_rule() -> set[str]:
    """The rules of the whole package, whatever has been imported so far."""
    for info in pkgutil.walk_packages(refimpl.__path__, "refimpl."):
        if not info.name.endswith(("cli", "__main__", "inference.mitchell_cupy")):
            importlib.import_module(info.name)
    return {name for name, rule in RULES.items() if rule.definition.__module__.startswith("refimpl.")}


def test_every_rule_is_checked() -> None:
    assert _every_rule() == set(verification.CASES)
    assert {f"VJP.{name}" for name in verification.CASES} == {
        check.id for check in checks.gradient_checks(Setting(backend.get("numpy")))
    }


@pytest.mark.parametrize("name", sorted(verification.CASES))
def test_cases_are_announced_and_reasoned(name: str) -> None:
    cases = verification.cases_of(name)
    assert cases
    assert len({case.label for case in cases}) == len(cases)
    assert verification.count(name) == sum(verification.planned(RULES[name], case) for case in cases)
    assert any(not case.steps_only for case in cases)
    for case in cases:
        assert bool(case.reason) == (max(case.complex_step, case.float64) > 1e-12)
        assert max(case.complex_step, case.float64) < 1e-8 or case.reason


def test_a_rule_without_cases_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"no cases(.|\n)*softmax.hardmax"):
        verification.cases_of("softmax.hardmax")


# --- wrong pullbacks do not pass --------------------------------------------------------------------------------------------------


def _planted(rule: Rule, change: Callable[..., Any]) -> Rule:
    """The rule with another pullback: change(pullback, bars)."""

    def function(*args: Any, **options: Any) -> tuple[Any, Any]:
        value, pullback = rule.function(*args, **options)
        return value, lambda *bars: change(pullback, bars)

    function.__signature__ = inspect.signature(rule.function)  # type: ignore[attr-defined]
    return rule._replace(function=function)


def _number(entry: Any) -> float:
    return float(entry.mid()) if hasattr(entry, "mid") else float(entry)


def _one_entry(bar: Any) -> Any:
    """The largest entry times 1 + 1e-9."""
    changed = np.array(bar)
    place = np.unravel_index(int(np.argmax([abs(_number(entry)) for entry in changed.ravel()])), changed.shape)
    changed[place] = changed[place] * (1 + 1e-9)
    return changed


def _turned(bar: Any) -> Any:
    """Its entries as those of the transpose."""
    return np.swapaxes(bar, -1, -2).reshape(bar.shape) if bar.ndim > 1 else bar[::-1]


def _largest_leaf(change: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with the change made to its largest array, by its largest entry."""
    sizes = [max((abs(_number(entry)) for entry in leaf.ravel()), default=0.0) for leaf in leaves(tree)]
    count = iter(range(len(sizes)))
    return mapped(lambda leaf: change(leaf) if next(count) == int(np.argmax(sizes)) else leaf, tree)


def _at(i: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
    """The change made to the cotangent of argument i."""

    def changed(pullback: Any, bars: tuple[Any, ...]) -> Any:
        found = list(pullback(*bars))
        found[i] = change(found[i])
        return tuple(found)

    return changed


def _dropped(pullback: Any, bars: tuple[Any, ...]) -> Any:
    """A term is missing: the largest entry of the first cotangent is taken for 0."""
    first, *others = bars

    def zero(bar: Any) -> Any:
        flat = bar.ravel().copy()
        flat[int(np.argmax([abs(_number(entry)) for entry in flat]))] *= 0
        return flat.reshape(bar.shape)

    return pullback(zero(first) if hasattr(first, "shape") else _largest_leaf(zero, first), *others)


def _wrong(rule: Rule, case: Case) -> dict[str, Callable[..., Any]]:
    """Wrong pullbacks that differ from the right one on the case."""

    def scaled(factor: float) -> Callable[..., Any]:
        return lambda pullback, bars: mapped(lambda leaf: leaf * factor, pullback(*bars))

    wrong = {"wrong sign": scaled(-1.0), "1 + 1e-9": scaled(1 + 1e-9), "a term is missing": _dropped}
    for i, name in enumerate(rule.arguments):
        wrong[f"{name}: one entry"] = _at(i, lambda tree: _largest_leaf(_one_entry, tree))
        wrong[f"{name}: none"] = _at(i, lambda tree: mapped(lambda leaf: leaf * 0, tree))
        wrong[f"{name}: transposed"] = _at(i, lambda tree: _largest_leaf(_turned, tree))
    found = checking.subject(rule, case, 0)
    right = leaves(found.found)
    return {
        name: change
        for name, change in wrong.items()
        if not all(
            np.array_equal(a, b) for a, b in zip(right, leaves(_changed(rule, case, change, found.bars)), strict=True)
        )
    }


def _changed(rule: Rule, case: Case, change: Callable[..., Any], bars: tuple[Any, ...]) -> Any:
    _, pullback = _planted(rule, change).function(**case.arguments, **case.more)
    return pullback(*bars)


def _unmasked(rule: Rule, case: Case) -> Callable[..., Any]:
    """The pullback of the same call without its mask."""

    def changed(pullback: Any, bars: tuple[Any, ...]) -> Any:
        given = case.arguments | case.more | {"mask": np.ones_like(case.arguments["mask"])}
        if any(leaf.dtype == object for leaf in leaves(bars)):
            given = {name: checking.exact_balls(value) for name, value in given.items()}
        return rule.function(**given)[1](*bars)

    return changed


def _rejected(rule: Rule, case: Case, check: Callable[..., Any]) -> bool:
    try:
        return not check(checking.subject(rule, case, 0), np.random.default_rng(1)).multiple <= 1
    except errors.RefimplError:
        return True


def _smallest(name: str) -> Case:
    """The first of the rule's cases, which is a small one."""
    return dataclasses.replace(verification.cases_of(name)[0], unseen=())


@pytest.mark.parametrize("name", sorted(set(verification.CASES) - SURROGATES))
def test_each_check_rejects_wrong_pullbacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "COORDINATES", 4)
    monkeypatch.setattr(checking, "DIRECTIONS", 4)
    rule, case = RULES[name], _smallest(name)
    assert not _rejected(rule, case, checking.complex_steps)
    assert not _rejected(rule, case, checking.mean_value)
    wrong = _wrong(rule, case)
    assert {"wrong sign", "1 + 1e-9", f"{rule.arguments[0]}: one entry", f"{rule.arguments[0]}: none"} <= set(wrong)
    for told, change in wrong.items():
        planted = _planted(rule, change)
        assert _rejected(planted, case, checking.complex_steps), told
        if not told.endswith(("none", "transposed")):  # these change more than one entry by more than 1e-9
            assert _rejected(planted, case, checking.mean_value), told


def _masked(name: str) -> Case | None:
    """The rule's first case in which a mask changes the pullback."""
    for case in verification.cases_of(name):
        if case.arguments.get("mask") is not None and "bool" in str(case.arguments["mask"].dtype):
            bars = checking.subject(RULES[name], case, 0).bars
            both = (_changed(RULES[name], case, change, bars) for change in (_as_it_is, _unmasked(RULES[name], case)))
            if not all(np.array_equal(*pair) for pair in zip(*map(leaves, both), strict=True)):
                return dataclasses.replace(case, unseen=())
    return None


def _as_it_is(pullback: Any, bars: tuple[Any, ...]) -> Any:
    return pullback(*bars)


MASKED = {name: case for name in sorted(verification.CASES) if (case := _masked(name)) is not None}


def test_every_rule_with_a_mask_has_a_masked_case() -> None:
    takes = {name for name in verification.CASES if "mask" in inspect.signature(RULES[name].definition).parameters}
    assert takes == set(MASKED)


@pytest.mark.parametrize("name", list(MASKED))
def test_a_forgotten_mask_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "COORDINATES", 4)
    rule, case = RULES[name], MASKED[name]
    planted = _planted(rule, _unmasked(rule, case))
    assert _rejected(planted, case, checking.complex_steps)
    assert _rejected(planted, case, checking.mean_value)


def _examined(rule: Rule, case: Case) -> float:
    return max(outcome.multiple for outcome in verification.examine(rule, case))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("normalization.layer_norm", lambda bars: (bars[0], bars[1][None], bars[2]), "does not fit its argument"),
        ("normalization.layer_norm", lambda bars: (bars[0], bars[1], np.stack([bars[2]] * 3)), "does not fit its argu"),
        ("softmax.softmax", lambda bars: (bars[0].astype(np.float32),), "does not fit its argument(.|\n)*float32"),
        ("attention.scaled_dot_product_attention", lambda bars: (*bars[:3], bars[0], None), "trees of different form"),
        ("attention.scaled_dot_product_attention", lambda bars: (None, *bars[1:]), "trees of different form"),
    ],
)
def test_cotangents_of_another_form_are_refused(name: str, change: Any, told: str) -> None:
    planted = _planted(RULES[name], lambda pullback, bars: change(pullback(*bars)))
    with pytest.raises(errors.ShapeError, match=told):
        verification.examine(planted, _smallest(name))


def test_too_few_cotangents_are_refused() -> None:
    planted = _planted(RULES["normalization.layer_norm"], lambda pullback, bars: pullback(*bars)[:2])
    with pytest.raises(ValueError, match="shorter"):
        verification.examine(planted, _smallest("normalization.layer_norm"))


def test_another_value_is_refused() -> None:
    rule = RULES["softmax.softmax"]

    def function(x: Any, axis: int = -1) -> tuple[Any, Any]:
        value, pullback = rule.function(x, axis)
        return value * (1 + 2.0**-52), pullback

    with pytest.raises(errors.ShapeError, match="bit for bit"):
        verification.examine(rule._replace(function=function), _smallest("softmax.softmax"))


def test_cotangents_that_must_not_be_looked_at() -> None:
    """0 times NaN is NaN: a masked entry must be left out, not multiplied by 0."""
    (case,) = (case for case in verification.cases_of("softmax.masked_softmax") if case.label == "masked")

    def looking(x: Any, mask: Any, axis: int = -1) -> tuple[Any, Any]:
        p = softmax.masked_softmax(x, mask, axis)
        return p, lambda bar: (p * (bar - (p * bar).sum(axis, keepdims=True)),)

    rule = RULES["softmax.masked_softmax"]
    assert _examined(rule, case) <= 1
    assert _examined(rule._replace(function=looking), dataclasses.replace(case, unseen=(), dtypes=())) <= 1
    with pytest.raises(errors.ShapeError, match="must not look at"):
        verification.examine(rule._replace(function=looking), case)


def test_a_hull_that_meets_a_branch_is_undecided() -> None:
    case = Case("kink", "0 itself", {"x": np.array([0.0, 1.0])})
    with pytest.raises(errors.UndecidedError, match="below 0"):
        verification.examine(RULES["activation.relu"], case)


def test_the_entry_in_float64_is_held_to_the_enclosure() -> None:
    """What rounding takes from the definition too, complex steps cannot see."""
    rule = RULES["normalization.layer_norm"]
    (case,) = (case for case in verification.cases_of("normalization.layer_norm") if case.label == "flat")
    rng = np.random.default_rng(0)
    assert checking.complex_steps(checking.subject(rule, case, 0), rng).multiple <= 1
    strict = dataclasses.replace(case, float64=1e-12)
    assert checking.mean_value(checking.subject(rule, case, 0), rng).multiple <= 1
    assert checking.mean_value(checking.subject(rule, strict, 0), rng).multiple > 1


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("activation.tanh", lambda x, y: 1 - y * y),
        ("activation.sigmoid", lambda x, y: y * (1 - y)),
        ("activation.relu", lambda x, y: (x >= 0) * 1.0),
    ],
)
def test_functions_of_one_number_are_checked_entry_by_entry(name: str, slope: Any) -> None:
    """Slopes that are right beside the largest of the array: 1 - y² where y is nearly 1; and the other subgradient of ReLU."""
    rule = RULES[name]

    def function(x: Any) -> tuple[Any, Any]:
        y, pullback = rule.function(x)
        return y, pullback if x.dtype == object else lambda bar: (slope(x, y) * bar,)

    wrong = rule._replace(function=function)
    cases = verification.cases_of(name)
    assert all(_examined(rule, case) <= 1 for case in cases)
    assert max(_examined(wrong, dataclasses.replace(case, dtypes=())) for case in cases) > 1e3


@pytest.mark.parametrize("name", ["taylor.taylor_softmax", "pooling.unit_length"])
def test_a_zero_far_out_is_seen(name: str) -> None:
    """0 instead of a cotangent of 1e-100 or less, which no absolute unit sees."""
    rule = RULES[name]

    def function(x: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
        y, pullback = rule.function(x, *args, **options)
        far = x.dtype != object and np.max(np.abs(x)) > 1e100
        return y, (lambda bar: (np.zeros_like(x),)) if far else pullback

    wrong = [
        _examined(rule._replace(function=function), dataclasses.replace(case, dtypes=(), steps_only="here"))
        for case in verification.cases_of(name)
    ]
    assert max(wrong) > 1e10


def test_the_same_bits_have_the_same_form() -> None:
    one = np.zeros((2, 1))
    assert checking._same_bits(one, one.copy())
    assert not checking._same_bits(one, one[:, 0])
    assert not checking._same_bits(one, one.astype(np.int64))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_budgets_of_dtypes_see_wrong_pullbacks(dtype: str) -> None:
    """A relative error of 256 u, made in that dtype alone: more than the roundings of a softmax and its pullback add up to."""
    rule, case = RULES["softmax.softmax"], _smallest("softmax.softmax")
    bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype]

    def change(pullback: Any, bars: tuple[Any, ...]) -> Any:
        (found,) = pullback(*bars)
        return (found if found.dtype != dtype else (found * (1 + 2.0 ** (8 - bits))).astype(found.dtype),)

    found = checking.subject(rule, case, 0)
    assert checking.in_dtype(found, dtype, checking.NUMPY).multiple <= 1
    wrong = dataclasses.replace(found, rule=_planted(rule, change))
    assert checking.in_dtype(wrong, dtype, checking.NUMPY).multiple > 1


def test_a_sampled_budget_sees_wrong_pullbacks() -> None:
    rule, case = RULES["gpt2.logits"], _smallest("gpt2.logits")
    assert case.sampled

    def change(pullback: Any, bars: tuple[Any, ...]) -> Any:
        return mapped(lambda leaf: leaf if str(leaf.dtype) != "float32" else leaf * (1 + 2.0**-16), pullback(*bars))

    found = checking.subject(rule, case, 0)
    wrong = dataclasses.replace(found, rule=_planted(rule, change))
    assert checking.in_dtype(found, "float32", checking.NUMPY).multiple <= 1
    assert checking.in_dtype(wrong, "float32", checking.NUMPY).multiple > 1


def test_a_check_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = RULES["softmax.softmax"]
    planted = _planted(rule, lambda pullback, bars: mapped(lambda leaf: leaf * (1 + 1e-9), pullback(*bars)))
    monkeypatch.setitem(RULES, "softmax.softmax", planted)
    (check,) = (
        check for check in checks.gradient_checks(Setting(backend.get("numpy"))) if check.id == "VJP.softmax.softmax"
    )
    finding = check.run(Setting(backend.get("numpy")))
    assert not finding.holds
    assert finding.multiple is not None
    assert 100 < finding.multiple < 10000
    assert finding.worst.startswith("ordinary: complex step")
    assert finding.cases < (check.cases or 0)


# --- stated subgradients -----------------------------------------------------------------------------------------------------------


def test_stated_subgradients() -> None:
    """Where a function has no derivative, the one of its subgradients that its rule states."""
    one = np.ones
    _, back = gradients.vjp(activation.relu, np.array([0.0, -0.0, 1e-300]))
    assert back(one(3))[0].tolist() == [0, 0, 1]
    _, back = gradients.vjp(favor.relu_features, np.array([[0.0, 1.0]]), None, normalized=False)
    assert back(one((1, 2)))[0].tolist() == [[0, 1]]
    value, back = gradients.vjp(softmax.sparse_softmax, np.array([2.0, 2.0, 2.0]), 2)
    assert value.tolist() == [0.5, 0.5, 0]
    assert back(np.array([1.0, 0.0, np.nan]))[0].tolist() == [0.25, -0.25, 0]
    x, w = np.array([[1.0, 1.0]]), np.eye(2)
    _, back = gradients.vjp(favor.positive_features, x, w, shift="row", normalized=False)
    below = [
        gradients.vjp(favor.positive_features, x + d, w, shift="row", normalized=False)[1](one((1, 2)))[0]
        for d in (np.array([[1e-9, 0]]), np.array([[0, 1e-9]]))
    ]
    np.testing.assert_allclose(back(one((1, 2)))[0], (below[0] + below[1]) / 2, rtol=1e-7)


# --- the page ----------------------------------------------------------------------------------------------------------------------


def table_rows() -> list[str]:
    """The rows of the table of all rules in docs/gradients.md."""
    return [f"| `{name}` | {', '.join(RULES[name].arguments)} |" for name in sorted(_every_rule())]


def test_the_page_lists_every_rule() -> None:
    page = (Path(refimpl.__file__).parent.parent / "docs" / "gradients.md").read_text("utf-8")
    shown = [line for line in page.partition("## All rules")[2].splitlines() if line.startswith("| `")]
    assert shown == table_rows(), "write the rows that table_rows() returns into docs/gradients.md"
