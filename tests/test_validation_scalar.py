"""The enclosures contain what programs that share no line with the definitions answer, and would not if a definition had a bug."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import flint
import ml_dtypes
import numpy as np
import pytest
from mpmath import mp, mpf

import weights_io
from refimpl import (
    activation,
    attention,
    backend,
    bert,
    bits,
    blocks,
    convolution,
    copying,
    errors,
    favor,
    gpt2,
    mitchell,
    mitchell_patterns,
    normalization,
    pooling,
    positions,
    softmax,
    taylor,
)
from refimpl.number_system import square_root
from refimpl.spaces import labels, seq2seq, words
from refimpl.text import rouge, sentences
from validation import checks, components, extraction, layers, logarithmic, peers, run, scalar, truth
from validation.claims.registry import Setting
from validation.scalar import cases, numbers

FOLDER = Path(scalar.__file__).parent
PROGRAMS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "cases"))
NUMPY = backend.get("numpy")


def _broken(name, keep=lambda case: True):
    """The comparison on those cases; a definition with a bug must not pass it. Of a backward pass, on few: differences take seconds."""
    chosen = [case for case in scalar.tiny_cases(name) if keep(case)]
    return scalar.cross_check(name, *(chosen[:3] if components.component(name).backward else chosen))


# ------------------------------------------------------------------------------------------------------------ every component


def test_every_component_has_a_second_program():
    assert set(components.COMPONENTS) <= set(scalar.SCALAR), "write the new component's program in validation/scalar"


@pytest.mark.parametrize("check", checks.truth_checks(Setting(NUMPY)), ids=lambda check: check.id)
def test_the_enclosures_contain_the_answers_of_the_second_program(check):
    line = run.Line(check, check.run(Setting(NUMPY)), 0.0)
    assert line.passed, line.finding
    assert line.finding.cases == check.cases
    assert line.finding.multiple < 1e-10  # radius and distance both: 256 bits and 75 digits leave that much room


def test_another_seed_is_another_set_of_cases():
    first, second = (scalar.tiny_cases("attention", seed)[0].arrays[0] for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert scalar.cross_check("attention", seed=1).holds


@pytest.mark.parametrize("name", list(components.COMPONENTS))
def test_tiny_cases_are_tiny_and_of_both_dtypes(name):
    found = scalar.tiny_cases(name)
    floats = {a.dtype.name for case in found for a in case.arrays if a is not None and a.dtype.kind == "f"}
    assert floats == (
        set()
        if name
        in (
            *components.MODELS,
            "copy_labels",
            "match_sentences",
            "split_sentences",
            *(n for n in components.COMPONENTS if n.endswith(("_integer", "_patterns", "_words"))),
        )
        else {"float64"}
        if name.endswith("_block.vjp")  # their own cases alone are narrow enough
        else {"float32", "float64"}
    )
    for case in found:
        if name in components.MODELS:
            assert case.arrays[0].size <= scalar.TOKENS
        else:
            with np.errstate(all="ignore"):
                assert components.component(name).definition(*case.arrays, **case.params).size <= scalar.LARGEST
    large = dataclasses.replace(found[0], arrays=(np.zeros((1, scalar.LONGEST + 1)), *found[0].arrays[1:]))
    assert not scalar.tiny(name, large)


def _flattened(values):
    return [each for part in values for each in _flattened(part)] if isinstance(values, list) else [values]


def test_every_option_occurs():
    """What the own cases of a component leave out: every kernel of every dialect, causal and masked; every set of options of a feature map."""
    seen = {
        (p["dialect"], p["kernel"])
        for p in (case.params for case in cases.own_cases("favor_attention", np.random.default_rng(0)))
    }
    assert seen == {(name, kernel) for name, dialect in favor.dialects.items() for kernel in dialect.kernels}
    for name, count in (("positive", 32), ("trigonometric", 16), ("hyperbolic", 20), ("relu", 24)):
        own = cases.own_cases(f"{name}_features", np.random.default_rng(0))
        assert len({(*sorted(case.params.items(), key=str), case.arrays[1] is None) for case in own}) == count


def test_the_guard_of_google_jax_is_used_on_both_sides():
    guarded = {False: 0, True: 0}
    for case in scalar.tiny_cases("favor_attention"):
        if case.params["dialect"] == "google-jax" and case.params["mask"] is None:
            bare = dataclasses.replace(favor.dialects["google-jax"], denominator="bare", causal_denominator="bare")
            options = {"causal": case.params["causal"], "kernel": case.params.get("kernel", "softmax")}
            one, other = (favor.favor_attention(*case.arrays, dialect=d, **options) for d in ("google-jax", bare))
            guarded[not np.allclose(one, other, rtol=1e-9, atol=0)] += 1
    assert min(guarded.values()) >= 4


# ---------------------------------------------------------------------------------------------------- independent, and of what


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_scalar_program_imports_mpmath_and_the_standard_library_only(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    others = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert others <= {"mpmath", *(f"validation.scalar.{each.stem}" for each in PROGRAMS)}
    source = path.read_text("utf-8")
    assert "importlib" not in imported and "__import__" not in source and "sys.modules" not in source


def test_every_second_program_is_in_one_of_those_files():
    assert {program.__module__ for program in scalar.SCALAR.values()} <= {
        f"validation.scalar.{p.stem}" for p in PROGRAMS
    }


def test_the_scalar_programs_run_where_there_is_neither_refimpl_nor_numpy():
    script = f"""
import importlib, sys, types

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("refimpl", "numpy", "flint", "weights_io"):
            raise ImportError(f"{{name}} is refused here")

sys.meta_path.insert(0, Refused())
for name, folder in (("validation", {str(FOLDER.parent)!r}), ("validation.scalar", {str(FOLDER)!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
modules = {{stem: importlib.import_module(f"validation.scalar.{{stem}}") for stem in {[p.stem for p in PROGRAMS]!r}}}
print(modules["softmax"].softmax([[0.0, 0.0]])[0][1])
print(len(modules["gpt2"].gpt2([[7, 8]], [[False, True]])[0][1]))
for encoder in (modules["bert"].bert, modules["bert"].nezha):
    print(len(encoder([[7, 8]], [[0, 1]], [[True, False]], "unilm")[0][1]))
assert not {{"numpy", "refimpl"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5", "61", "60", "60"]


@pytest.mark.parametrize(
    ("dialect", "folder"), [("performer-pytorch", "performer_pytorch"), ("tf-models", "tf_models")]
)
def test_the_second_programs_dialects_are_those_of_the_recorded_implementations(dialect, folder):
    """Not by way of refimpl: what the implementation answered, and what its dialect is taken to be here."""
    a = dict(weights_io.open(components.RECORDED / folder / "answers.safetensors"))
    for kernel in ("softmax", "relu"):
        for direction in ("both", "causal"):
            recorded = a[f"unit_{kernel}_{direction}"][:1]
            options = {"mask": None, "causal": direction == "causal", "dialect": dialect, "kernel": kernel}
            got = scalar.SCALAR["favor_attention"](a["q"][:1], a["k"][:1], a["v"][:1], a["projection"], **options)
            _near(got, recorded)


@pytest.mark.parametrize(
    ("key", "kernel"),
    [("softmax", "softmax"), ("relu_proj", "relu"), ("relu_det", "relu"), ("sincos", "trigonometric")],
)
@pytest.mark.parametrize("direction", ["bi", "causal"])
def test_the_second_programs_google_jax_is_that_of_its_recorded_answers(key, kernel, direction, shared):
    folder = shared("performer")
    given, recorded = np.load(folder / "inputs.npz"), np.load(folder / "google_jax.npz")
    q, k, v = (given[f"unit_{each}"][:1, :1] for each in "qkv")
    options = {"mask": None, "causal": direction == "causal", "dialect": "google-jax", "kernel": kernel}
    projection = None if key == "relu_det" else given["unit_proj"]
    _near(scalar.SCALAR["favor_attention"](q, k, v, projection, **options), recorded[f"unit_{key}_{direction}"][:1, :1])


def _near(answers, recorded):
    got = np.array([float(each) for each in _flattened(answers)]).reshape(recorded.shape)
    assert np.max(np.abs(got - recorded)) <= peers.RELATIVE * np.max(np.abs(recorded))


@pytest.mark.parametrize(("queries", "keys", "width", "clip"), [(2, 70, 4, 64), (5, 7, 6, 3), (1, 1, 2, 1)])
def test_relative_positions_are_those_of_the_second_nezha(queries, keys, width, clip):
    """The table itself: the component relative_attention is given one, and no tiny case is longer than the clip of a network."""
    with truth.precision(256):
        table = positions.relative_positions(queries, keys, width, like=truth.balls(np.zeros(1)), clip=clip)
    with mp.workdps(numbers.DIGITS):
        for i, j in np.ndindex(queries, keys):
            expected = scalar.bert.relative_embedding(j - (keys - queries + i), width, clip)
            with truth.precision(512):
                for ball, number in zip(table[i, j], expected, strict=True):
                    assert abs(ball.mid() - scalar._ball(number)) <= ball.rad() + scalar.ROUNDING
                    assert ball.rad() <= scalar.RADIUS


# ----------------------------------------------------------------------------------------------------------------- helpers


def test_floats_become_numbers_of_exactly_their_value():
    with mp.workdps(60):
        assert numbers.nested(np.array([[0.1, -0.0]])) == [[mpf(0.1), mpf(0)]]
        assert numbers.nested(np.array([0.1], np.float32)) == [mpf(float(np.float32(0.1)))]
        assert numbers.nested(np.array([0.1], ml_dtypes.bfloat16)) == [mpf(float(ml_dtypes.bfloat16(0.1)))]
        third = mpf(1) / 3
        assert numbers.nested([third, 0.5])[0] is third
    assert numbers.nested(np.array([True, False])) == [True, False]
    assert [type(each) for each in numbers.nested(np.array([1, 2]))] == [int, int]
    assert [numbers.nested(each) for each in (None, "row", np.float64(0.5))] == [None, "row", mpf(0.5)]


def test_a_mask_broadcasts_as_arrays_do():
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 4, 5), (3, 1, 5), (2, 1, 1, 5), (4, 1), (5,), (1, 1, 4, 5)):
        mask = rng.uniform(size=shape) < 0.5
        wide = np.broadcast_to(mask, (2, 3, 4, 5))
        assert all(numbers.visible(mask.tolist(), *place) == wide[place] for place in np.ndindex(wide.shape))
    assert numbers.visible(None, 0, 0)


def test_a_program_computes_with_its_digits_and_leaves_the_precision_as_it_was():
    before = mp.dps
    answer = scalar.SCALAR["softmax"](np.array([1.0, 2.0]))[0]
    assert mp.dps == before
    with mp.workdps(100):
        assert abs(answer - 1 / (1 + mp.e)) < mpf(10) ** (2 - numbers.DIGITS)


@pytest.mark.parametrize("number", ["1e-40", "-3.5", "0", "1e300", "-0.1"])
def test_an_mpf_becomes_exactly_that_ball(number):
    with mp.workdps(numbers.DIGITS), truth.precision(512):
        value = mpf(number)
        ball = scalar._ball(value)
        assert ball.is_exact()
        mantissa, exponent = (int(each) for each in ball.man_exp())
        assert mp.ldexp(mpf(mantissa), exponent) == value
    assert all(scalar._ball(mpf(each)).is_nan() for each in ("nan", "inf", "-inf"))


# ------------------------------------------------------------------------------------------- what is not contained does not pass


@pytest.mark.parametrize("name", list(components.COMPONENTS))
def test_a_wrong_second_program_is_noticed(name, monkeypatch):
    original, few = scalar.SCALAR[name], scalar.tiny_cases(name)[:1]
    answers = []

    def once(*arrays, **params):
        answers.extend([] if answers else [original(*arrays, **params)])
        return answers[0]

    monkeypatch.setitem(scalar.SCALAR, name, once)
    assert scalar.cross_check(name, *few).holds

    def moved(values):
        return [moved(part) for part in values] if isinstance(values, list) else values * (1 + mpf(10) ** -45)

    for wrong in (moved, lambda values: values[:-1], lambda values: [values], _not_numbers):
        with monkeypatch.context() as patch, mp.workdps(80):
            patch.setitem(scalar.SCALAR, name, lambda *arrays, wrong=wrong, **params: wrong(once(*arrays, **params)))
            found = scalar.cross_check(name, *few)
        assert not found.holds
        assert not found.multiple <= 1
        assert few[0].id in found.worst


def _not_numbers(values):
    return [_not_numbers(part) for part in values] if isinstance(values, list) else mpf("nan")


def test_a_wide_enclosure_does_not_pass_by_containing_everything(monkeypatch):
    wide = np.full((2,), flint.arb(0.5, 1), dtype=object)
    monkeypatch.setattr(truth, "enclose", lambda *arrays, **options: wide)
    found = scalar.cross_check("softmax", components.Case("half", "", (np.zeros(2),)))
    assert not found.holds
    assert found.widest >= 1
    assert found.multiple > 1


def test_what_cannot_be_compared_is_refused(monkeypatch):
    with pytest.raises(errors.ConfigError, match="unknown component"):
        scalar.cross_check("nope")
    monkeypatch.setitem(components.COMPONENTS, "new", components.COMPONENTS["softmax"])
    with pytest.raises(errors.ConfigError, match=r"no second program(.|\n)*softmax"):
        scalar.cross_check("new")
    monkeypatch.setattr(scalar, "LARGEST", 0)
    with pytest.raises(errors.ConfigError, match="no tiny case"):
        scalar.cross_check("softmax")


def test_a_check_with_a_wrong_definition_fails(monkeypatch):
    wrong = dataclasses.replace(components.COMPONENTS["softmax"], definition=lambda x: softmax.softmax(2 * x))
    monkeypatch.setitem(components.COMPONENTS, "softmax", wrong)
    result = run.validate(NUMPY, only=["TRUTH.softmax"])
    [line] = [line for line in result.lines if line.check.id == "TRUTH.softmax"]
    assert not line.passed
    assert line.finding.verdict == "outside"
    assert "does not contain" in line.finding.worst


# ------------------------------------------------------------------------------------------------------- bugs in definitions


def _definition(name, function):
    """A component whose definition is another function."""
    return lambda patch: patch.setitem(
        components.COMPONENTS, name, dataclasses.replace(components.COMPONENTS[name], definition=function)
    )


def _inside(module, name, replacement):
    """A name of a module of the engine replaced; the replacement is handed the original."""
    original = getattr(module, name)
    return lambda patch: patch.setattr(module, name, lambda *a, **k: replacement(original, *a, **k))


def _axes(shift, axes):
    return lambda patch: patch.setitem(favor._AXES, shift, axes)


def _dialect(name, kernel=None, **changes):
    def plant(patch):
        named = favor.dialects[name]
        if kernel is None:
            patch.setitem(favor.dialects, name, dataclasses.replace(named, **changes))
        else:
            kernels = {**named.kernels, kernel: dataclasses.replace(named.kernels[kernel], **changes)}
            patch.setitem(favor.dialects, name, dataclasses.replace(named, kernels=kernels))

    return plant


def _twice(f, x, scale, bias, eps):
    """A layer norm whose pullback to x is doubled."""
    value, back = f(x, scale, bias, eps)
    return value, lambda bar: (2 * back(bar)[0], *back(bar)[1:])


def _unbiased(x, scale, bias, eps):
    d = x.shape[-1]
    centred = x - np.sum(x, axis=-1, keepdims=True) / d
    variance = np.sum(centred * centred, axis=-1, keepdims=True) / (d - 1)
    return centred / (variance + eps) ** flint.arb(0.5) * scale + bias


def _outside_the_root(x, scale, bias, eps):
    d = x.shape[-1]
    centred = x - np.sum(x, axis=-1, keepdims=True) / d
    variance = np.sum(centred * centred, axis=-1, keepdims=True) / d
    return centred / (variance ** flint.arb(0.5) + eps) * scale + bias


def _without_values(q, k, v, relative, mask):
    out = attention.scaled_dot_product_attention(q, k, v, mask=mask, relative=relative)
    return softmax.masked_softmax(out[1], mask) @ v


def _mask_off_by_one(q, k, v, mask):
    wider = mask if mask is None or mask.shape[-1] != mask.shape[-2] else mask | np.tril(np.ones(mask.shape, bool), 1)
    return attention.scaled_dot_product_attention(q, k, v, mask=wider)[0]


def _later_first(original, x, k, axis=-1, *, mask=None):
    return np.flip(original(np.flip(x, axis), k, axis), axis)


def _short_sum(x):
    p = softmax.softmax(x)
    return p if x.shape[-1] == 1 else p / np.sum(p[..., :-1], axis=-1, keepdims=True)


def _clamped(logits, targets, k):
    loss = softmax.sparse_softmax_cross_entropy(logits, targets, k)
    return np.frompyfunc(lambda ball: ball if ball < 1 else flint.arb(1), 1, 1)(loss)


def _decimal(alpha):
    return Fraction(str(alpha))


def _seen_if_none(mask):
    return mask if mask is None else mask | ~np.any(mask, axis=-1, keepdims=True)


BUGS = [
    ("softmax", "temperature", _definition("softmax", lambda x: softmax.softmax(x * (1 + 2.0**-40)))),
    ("softmax", "the last entry not in the sum", _definition("softmax", _short_sum)),
    ("log_softmax", "base 2", _definition("log_softmax", lambda x: softmax.log_softmax(x) / 0.6931471805599453)),
    (
        "logsumexp",
        "mean for sum",
        _definition("logsumexp", lambda x: softmax.logsumexp(x) - flint.arb(x.shape[-1]).log()),
    ),
    ("gelu", "tanh for erf", _definition("gelu", lambda x, approximate: activation.gelu(x, "tanh"))),
    ("gelu", "erf for tanh", _definition("gelu", lambda x, approximate: activation.gelu(x, "none"))),
    ("gelu", "0.044715 as a double", _inside(activation, "exact", lambda f, value, like: f(float(value), like))),
    (
        "gelu",
        "√2 as a double",
        _inside(activation, "square_root", lambda f, value, like: f(value, like) * (1 + 2.0**-52)),
    ),
    ("layer_norm", "wrong eps", _inside(normalization, "exact", lambda f, eps, x: f(2 * eps, x))),
    ("layer_norm", "unbiased variance", _definition("layer_norm", _unbiased)),
    ("layer_norm", "eps outside the root", _definition("layer_norm", _outside_the_root)),
    ("attention", "missing 1/√d", _inside(attention, "square_root", lambda f, d, like: f(1, like))),
    ("attention", "1/d", _inside(attention, "square_root", lambda f, d, like: f(d * d, like))),
    ("attention", "mask off by one", _definition("attention", _mask_off_by_one)),
    ("attention", "mask ignored", _definition("attention", lambda q, k, v, mask: components._attention(q, k, v, None))),
    (
        "attention",
        "empty row is a mean",
        _inside(attention, "masked_softmax", lambda f, s, mask: f(s, _seen_if_none(mask))),
    ),
    (
        "residual_attention",
        "scores dropped",
        _definition("residual_attention", lambda q, k, v, p, mask, mean_over: components._attention(q, k, v, mask)),
    ),
    (
        "residual_attention",
        "mean_over ignored",
        _definition(
            "residual_attention",
            lambda q, k, v, p, mask, mean_over: components._residual_attention(q, k, v, p, mask, 1),
        ),
    ),
    (
        "residual_attention",
        "scaled with the scores",
        _definition(
            "residual_attention",
            lambda q, k, v, p, mask, mean_over: components._residual_attention(
                q, k, v, p / square_root(q.shape[-1], q), mask, mean_over
            ),
        ),
    ),
    ("relative_attention", "not added to values", _definition("relative_attention", _without_values)),
    (
        "relative_attention",
        "pairs transposed",
        _definition(
            "relative_attention",
            lambda q, k, v, r, mask: components._relative_attention(
                q, k, v, r if r.shape[0] != r.shape[1] else np.swapaxes(r, 0, 1), mask
            ),
        ),
    ),
    (
        "hierarchical_positions",
        "i and j exchanged",
        _definition(
            "hierarchical_positions", lambda table, at, alpha: positions.hierarchical_positions(table, at, 1 - alpha)
        ),
    ),
    (
        "hierarchical_positions",
        "alpha a decimal",
        _definition(
            "hierarchical_positions",
            lambda table, at, alpha: positions.hierarchical_positions(table, at, _decimal(alpha)),
        ),
    ),
    ("exp_taylor", "a term less", _definition("exp_taylor", lambda x, order: taylor.exp_taylor(x, max(order - 1, 0)))),
    ("exp_taylor", "even part", _definition("exp_taylor", lambda x, order: taylor.exp_taylor(abs(x), order))),
    ("taylor_softmax", "softmax", _definition("taylor_softmax", lambda x, order: softmax.softmax(x))),
    ("taylor_softmax", "order 2 always", _definition("taylor_softmax", lambda x, order: taylor.taylor_softmax(x, 2))),
    ("taylor_attention", "missing 1/√d", _inside(taylor, "_scaled", lambda f, q, scale: q)),
    (
        "taylor_attention",
        "no causal mask",
        _definition("taylor_attention", lambda q, k, v, causal, mask=None: taylor.taylor_attention(q, k, v, mask=mask)),
    ),
    (
        "taylor_attention",
        "x ⊗ x without 1/√2",
        _inside(taylor, "square_root", lambda f, d, like: f(d if d != 2 or like.ndim > 4 else 1, like)),
    ),
    ("sparse_softmax", "tie rule", _inside(softmax, "top_k_selection", _later_first)),
    ("sparse_softmax", "k + 1", _definition("sparse_softmax", lambda x, k: softmax.sparse_softmax(x, k + 1))),
    (
        "sparse_softmax_cross_entropy",
        "all entries in the sum",
        _definition(
            "sparse_softmax_cross_entropy", lambda s, t, k: softmax.sparse_softmax_cross_entropy(s, t, s.shape[-1])
        ),
    ),
    ("sparse_softmax_cross_entropy", "clamped", _definition("sparse_softmax_cross_entropy", _clamped)),
    ("positive_features", "head as row", _axes("head", (-1,))),
    (
        "positive_features",
        "row as head",
        _inside(favor, "_shift", lambda f, features, shift, *a: f(features, "head" if shift == "row" else shift, *a)),
    ),
    ("positive_features", "sequence as head", _axes("sequence", (-2, -1))),
    (
        "positive_features",
        "eps after 1/√m",
        _definition(
            "positive_features", lambda x, w, epsilon, **o: favor.positive_features(x, w, epsilon=0.0, **o) + epsilon
        ),
    ),
    ("positive_features", "d^-1/2", _inside(favor, "_scaled", lambda f, x, scaled: f(f(x, scaled), scaled))),
    (
        "trigonometric_features",
        "cos first",
        _definition(
            "trigonometric_features", lambda x, w, **o: np.roll(favor.trigonometric_features(x, w, **o), w.shape[0], -1)
        ),
    ),
    (
        "trigonometric_features",
        "1/√2m",
        _definition(
            "trigonometric_features", lambda x, w, **o: favor.trigonometric_features(x, w, **o) / square_root(2, x)
        ),
    ),
    ("trigonometric_features", "head as row", _axes("head", (-1,))),
    ("hyperbolic_features", "norm by row", _axes("norm", (-1,))),
    (
        "hyperbolic_features",
        "1/√m",
        _definition(
            "hyperbolic_features",
            lambda x, w, normalized, **o: (
                favor.hyperbolic_features(x, w, normalized=normalized, **o) * square_root(2 if normalized else 1, x)
            ),
        ),
    ),
    (
        "relu_features",
        "inside as outside",
        _definition(
            "relu_features", lambda x, w, normalized, **o: favor.relu_features(x, w, normalized=bool(normalized), **o)
        ),
    ),
    ("relu_features", "eps", _inside(favor, "exact", lambda f, value, like: f(1.5 * value, like))),
    ("favor_attention", "paper: relu scaled", _dialect("paper", "relu", scaled=True)),
    ("favor_attention", "performer-pytorch: eps", _dialect("performer-pytorch", "softmax", epsilon=1e-6)),
    (
        "favor_attention",
        "performer-pytorch: bare when causal",
        _dialect("performer-pytorch", causal_denominator="bare"),
    ),
    ("favor_attention", "performer-pytorch: keys by row", _dialect("performer-pytorch", "softmax", key_shift="row")),
    ("favor_attention", "google-jax: no guard", _dialect("google-jax", denominator="bare")),
    ("favor_attention", "google-jax: keys over heads", _dialect("google-jax", "softmax", key_shift="sequence")),
    ("favor_attention", "google-jax: relu scaled", _dialect("google-jax", "relu", scaled=True)),
    ("favor_attention", "google-jax: trigonometric by row", _dialect("google-jax", "trigonometric", key_shift="row")),
    ("favor_attention", "google-tf: eps as in performer-pytorch", _dialect("google-tf", "softmax", epsilon=1e-4)),
    ("favor_attention", "google-tf: relu outside", _dialect("google-tf", "relu", normalized=True)),
    ("favor_attention", "fast-transformers: ε of the denominator", _dialect("fast-transformers", epsilon=1e-7)),
    (
        "favor_attention",
        "fast-transformers: unstabilised",
        _dialect("fast-transformers", "stabilized", key_shift="none"),
    ),
    ("favor_attention", "fast-transformers: relu with eps", _dialect("fast-transformers", "relu", epsilon=1e-3)),
    ("favor_attention", "tf-models: by head", _dialect("tf-models", "softmax", key_shift="head")),
    ("favor_attention", "tf-models: eps in features", _dialect("tf-models", "softmax", epsilon=1e-6)),
    ("favor_attention", "tf-models: bare", _dialect("tf-models", causal_denominator="bare")),
    (
        "favor_attention",
        "paper: causal off",
        _definition("favor_attention", lambda *a, causal, **o: components._favor(*a, causal=False, **o)),
    ),
    (
        "favor_attention",
        "paper: mask off",
        _definition("favor_attention", lambda *a, mask, **o: components._favor(*a, mask=None, **o)),
    ),
    (
        "favor_attention",
        "google-jax: guard adds ε once",
        _inside(favor, "_guarded", lambda f, d, epsilon: f(d, epsilon) - (f(d, epsilon) - d) / 2),
    ),
    ("mitchell_multiply", "exact product", _definition("mitchell_multiply", lambda a, b, dialect: a * b)),
    (
        "mitchell_multiply",
        "no carry",
        _inside(mitchell, "_mantissa_of_product", lambda f, g, h: (1 + g + h, g + h < 0)),
    ),
    (
        "mitchell_multiply",
        "nothing flushed",
        _definition("mitchell_multiply", lambda a, b, dialect: mitchell.multiply(a, b)),
    ),
    ("mitchell_divide", "exact quotient", _definition("mitchell_divide", lambda a, b, dialect: a / b)),
    (
        "mitchell_divide",
        "sign lost",
        _inside(mitchell, "_signed", lambda f, a, b, size, edges: f(abs(a), abs(b), size, edges)),
    ),
    ("mitchell_corrected", "no correction", _definition("mitchell_corrected", lambda a, b: mitchell.multiply(a, b))),
    ("mitchell_matmul", "exact", _definition("mitchell_matmul", lambda a, b, dialect: a @ b)),
    ("mitchell_power", "exact", _definition("mitchell_power", lambda x, y, product: x**y)),
    ("mitchell_square_root", "exact", _definition("mitchell_square_root", lambda x: x**0.5)),
    (
        "mitchell_multiply_patterns",
        "last bit set",
        _inside(mitchell_patterns, "_composed", lambda f, *arguments: f(*arguments) | 1),
    ),
    (
        "mitchell_divide_patterns",
        "rounded down",
        _inside(mitchell_patterns, "_rounded", lambda f, m, places, at: m >> np.minimum(places, 60)),
    ),
    (
        "mitchell_multiply_words",
        "words exchanged",
        _definition("mitchell_multiply_words", lambda a, b, kind: logarithmic.multiply_words(a, b, kind)[::-1]),
    ),
    ("mitchell_multiply_integer", "exact", _definition("mitchell_multiply_integer", lambda a, b, kind: a * b)),
    ("mitchell_divide_integer", "exact", _definition("mitchell_divide_integer", lambda a, b, kind: a // b)),
    ("mitchell_log2", "leading one kept", _definition("mitchell_log2", lambda x: mitchell.log2_approx(x) + 1)),
    (
        "mitchell_log2",
        "exponent one too large",
        _inside(bits, "split", lambda f, x: (f(x)[0] + 1, f(x)[1])),
    ),
    ("mitchell_exp2", "one binade up", _definition("mitchell_exp2", lambda x: mitchell.exp2_approx(x + 1))),
    (
        "mitchell_exp2",
        "cut off towards zero",
        _inside(bits, "whole_part", lambda f, x: np.frompyfunc(lambda ball: int(float(ball)), 1, 1)(x)),
    ),
    (
        "mean_pooling",
        "padding counted",
        _definition("mean_pooling", lambda x, mask: np.sum(np.where(mask[..., None], x, x * 0), axis=1) / x.shape[1]),
    ),
    (
        "mean_pooling",
        "mask ignored",
        _definition("mean_pooling", lambda x, mask: np.sum(x, axis=1) / x.shape[1]),
    ),
    (
        "unit_length",
        "eps in the root",
        _definition("unit_length", lambda x: x / (np.sum(x * x, axis=-1, keepdims=True) + 1e-12) ** flint.arb(0.5)),
    ),
    ("unit_length", "largest for length", _definition("unit_length", lambda x: x / np.max(abs(x), -1, keepdims=True))),
    *(
        (name, bug, _inside(module, attribute, replacement))
        for name in ("bert", "nezha")
        for bug, module, attribute, replacement in (
            ("tanh for erf", bert, "gelu", lambda f, x, form: f(x, "tanh")),
            ("wrong eps", blocks, "layer_norm", lambda f, x, scale, bias, eps: f(x, scale, bias, 1e-7)),
            ("missing 1/√d", attention, "square_root", lambda f, d, like: f(1, like)),
            ("segments all 0", bert, "unilm_mask", lambda f, segments: f(segments * 0)),
            ("sees ahead", bert, "causal_mask", lambda f, n, m, **o: f(n, m, **o) | (np.eye(n, m, 1) > 0)),
        )
    ),
    (
        "nezha",
        "positions from the right",
        _inside(bert, "relative_positions", lambda f, *a, **k: f(*a, **k)[::-1, ::-1]),
    ),
    ("copy_labels", "ties", _inside(copying, "longest_common_subsequence", lambda f, x, y: [p[::-1] for p in f(y, x)])),
    ("copy_labels", "I for B", lambda patch: patch.setattr(copying, "BEGIN", 2)),
    (
        "copy_step",
        "I after O",
        _inside(copying, "_tags", lambda f, scores, states, dialect: f(scores, states + 1, dialect)),
    ),
    ("copy_step", "one token less", _inside(copying, "_continues", lambda f, x, y, m: f(x, y, m - 1))),
    ("copy_step", "a token beyond", _inside(copying, "_among", lambda f, x, chosen, n: f(x, chosen | True, n))),
    (
        "copy_states",
        "I after O",
        _inside(copying, "_tags", lambda f, scores, states, dialect: f(scores, states + 1, dialect)),
    ),
    ("copy_states", "always a continuation", _inside(copying, "_continues", lambda f, x, y, m: f(x, y, 0 * m))),
    (
        "copy_beam_search",
        "length ignored",
        _inside(seq2seq, "beam_search", lambda f, *a, **k: f(*a, **k | {"length_penalty": 0})),
    ),
    (
        "copy_beam_search",
        "states carried",
        _inside(seq2seq, "published_search", lambda f, *a, **k: f(*a, **k, carried=True)),
    ),
    (
        "copy_loss",
        "logits, not their logarithms",
        _inside(copying, "cross_entropy", lambda f, x, t: -np.take_along_axis(x, t[..., None], axis=-1)[..., 0]),
    ),
    ("rouge", "n-grams once", _inside(rouge, "_numbered", lambda f, grams, once: f(grams, True))),
    ("rouge", "sentences of 。", _inside(rouge, "_sentences", lambda f, text: f([c.replace(".", "") for c in text]))),
    ("rouge", "units in common", _inside(rouge, "_common", lambda f, h, y: len(h.kinds & y.kinds))),
    ("rouge", "10⁻² for 10⁻¹²", _inside(extraction, "exact", lambda f, value, like: f(value * 10**10, like))),
    (
        "match_sentences",
        "the last of the longest",
        lambda patch: patch.setattr(labels, "max", lambda of, key: max(reversed(of), key=key), raising=False),
    ),
    ("match_sentences", "the last of the nearest", _inside(labels, "_closest", lambda f, x, where, y: where[-1])),
    (
        "split_sentences",
        "a mark forgotten",
        _inside(sentences, "_runs", lambda f, text, longest, mark: [text] if mark == "；" else f(text, longest, mark)),
    ),
    ("split_sentences", "empty ones not counted", _inside(sentences, "_split", lambda f, *a: [p for p in f(*a) if p])),
    (
        "extend_embedding",
        "rows in their old order",
        _inside(words, "extend_embedding", lambda f, t, kept, own: f(t, sorted(kept), own)),
    ),
    (
        "extend_embedding",
        "every piece once",
        _inside(words, "extend_embedding", lambda f, t, k, own: f(t, k, [sorted({*ids}) for ids in own])),
    ),
    ("gpt2_block", "erf for tanh", _inside(blocks, "gelu", lambda f, x, form: f(x, "none"))),
    (
        "gpt2_block",
        "not causal",
        _inside(layers, "causal_mask", lambda f, n, m, **o: np.ones((n, m), bool)),
    ),
    ("bert_block", "tanh for erf", _inside(blocks, "gelu", lambda f, x, form: f(x, "tanh"))),
    (
        "bert_block",
        "previous scores forgotten",
        _inside(blocks, "scaled_dot_product_attention", lambda f, *a, **k: f(*a, **{**k, "previous_scores": None})),
    ),
    ("dgcnn", "the mask of no layer", _inside(convolution, "_unpadded", lambda f, x, mask: x)),
    ("dgcnn", "gates first", _inside(convolution, "_halves", lambda f, x: f(x)[::-1])),
    ("gpt2", "erf for tanh", _inside(blocks, "gelu", lambda f, x, form: f(x, "none"))),
    ("gpt2", "wrong eps", _inside(blocks, "layer_norm", lambda f, x, scale, bias, eps: f(x, scale, bias, 1e-6))),
    ("gpt2", "missing 1/√d", _inside(attention, "square_root", lambda f, d, like: f(1, like))),
    (
        "gpt2",
        "mask off by one",
        _inside(gpt2, "causal_mask", lambda f, n, m, **o: f(n, m, **o) | (np.eye(n, m, 1) > 0)),
    ),
    *(
        (f"{name}.vjp", bug, _inside(module, attribute, replacement))
        for name, bug, module, attribute, replacement in (
            ("softmax", "not centred", softmax, "_centred", lambda f, p, bar, axis: p * bar),
            ("log_softmax", "softmax of half", softmax, "softmax", lambda f, x, axis=-1: f(x / 2, axis)),
            ("logsumexp", "softmax of half", softmax, "softmax", lambda f, x, axis=-1: f(x / 2, axis)),
            ("cross_entropy", "no one-hot", softmax, "_less_one_at", lambda f, p, ids: p),
            ("gelu", "the other form", activation, "_gelu_slope", lambda f, x, form: f(x, "none")),
            ("layer_norm", "scale not summed", normalization, "summed_to", lambda f, x, shape: x[0]),
            ("sparse_softmax", "half", softmax, "masked_softmax", lambda f, x, mask, axis=-1: f(x, mask, axis) / 2),
            ("sparse_softmax_cross_entropy", "k of half", softmax, "masked_softmax", lambda f, x, mask: f(x / 2, mask)),
            ("attention", "1/d", attention, "square_root", lambda f, d, like: f(d * d, like)),
            ("residual_attention", "1/d", attention, "square_root", lambda f, d, like: f(d * d, like)),
            ("relative_attention", "1/d", attention, "square_root", lambda f, d, like: f(d * d, like)),
            ("hierarchical_positions", "twice the share", positions, "_share", lambda f, alpha: 2 * f(alpha)),
            ("taylor_softmax", "half the slopes", taylor, "_slopes", lambda f, *a: f(*a) / 2),
            ("taylor_attention", "missing 1/√d", taylor, "_scaled", lambda f, q, scale: q),
            ("positive_features", "d^-1/2", favor, "_scaled", lambda f, x, scaled: f(f(x, scaled), scaled)),
            ("favor_attention", "d^-1/2", favor, "_scaled", lambda f, x, scaled: f(f(x, scaled), scaled)),
            ("mean_pooling", "one too many", pooling, "_tokens", lambda f, *a: (f(*a)[0], f(*a)[1] + 1)),
            ("unit_length", "half the projection", pooling, "unit_length", lambda f, x: f(x) / 2),
            ("trigonometric_features", "d^-1/2", favor, "_scaled", lambda f, x, scaled: f(f(x, scaled), scaled)),
            ("hyperbolic_features", "|x|²", favor, "_half_square", lambda f, x: 2 * f(x)),
            ("relu_features", "d^-1/2", favor, "_scaled", lambda f, x, scaled: f(f(x, scaled), scaled)),
            ("exp_taylor", "of order n", taylor, "exp_taylor", lambda f, x, order: f(x, order + 1)),
            ("copy_loss", "half the mean", copying, "_count", lambda f, *a: 2 * f(*a)),
            ("gpt2_block", "twice through the norms", blocks, "layer_norm_vjp", _twice),
            ("bert_block", "slope of the other form", blocks, "gelu_vjp", lambda f, x, form: f(x, "tanh")),
        )
    ),
]


@pytest.mark.parametrize(("name", "bug", "plant"), BUGS, ids=[f"{name}: {bug}" for name, bug, _ in BUGS])
def test_a_bug_in_a_definition_is_found(name, bug, plant, monkeypatch):
    dialect = bug.split(":")[0]
    plant(monkeypatch)
    found = _broken(name, lambda case: name != "favor_attention" or case.params["dialect"] == dialect)
    assert not found.holds, bug
    assert found.farthest > 0
    assert "does not contain" in found.worst


def test_every_component_has_a_bug_that_is_found():
    assert set(components.COMPONENTS) <= {name for name, _, _ in BUGS}
