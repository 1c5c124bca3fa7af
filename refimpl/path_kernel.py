"""Gradient descent as a kernel machine: tangent kernels, path kernels, and what every training example contributed to an output.

    θ_{t+1} = θ_t - η_t Σ_i ℓ'_i(t) ∇y(x_i; θ_t),   ℓ'_i(t) = ∂ℓ_i/∂y at y(x_i; θ_t),  i in the batch of step t                      (1)

    K_t(x, x') = <∇y(x; θ_t), ∇y(x'; θ_t)>                                                the tangent kernel                         (2)
    y_T(x) - y_0(x) = -Σ_t η_t Σ_i ℓ'_i(t) K_t(x, x_i) + O(η)                             the first-order form                       (3)

    K̄_t(x, x') = <∫_0^1 ∇y(x; θ_t + s (θ_{t+1} - θ_t)) ds, ∇y(x'; θ_t)>                                                              (4)
    y_T(x) - y_0(x) = -Σ_t η_t Σ_i ℓ'_i(t) K̄_t(x, x_i)                                    the exact form, for steps of any size      (5)

(5) is the fundamental theorem of calculus on each segment of the path. The integral is a sum over the nodes of Gauss and Legendre, which is exact
where ∇y is a polynomial of degree 2n - 1 in s, n the number of nodes. The path kernel is Σ_t η_t K_t, or with K̄_t. With outputs of several
numbers ℓ' is an array of them, and kernels are matrices. Domingos takes the loss to be the sum over the examples; others its mean, which divides
η by their number: so `reduction` has to be said.

A *model* is a function of a tree of parameters and of a batch of examples, in the first axis of every array in `x`; it returns one output for
each, and the pullback of the parameters:  model(θ, x) = y (n, ...),  ȳ (n, ...) -> θ̄.  An output must not depend on the other examples.

A path is any iterable of `Step`. `sgd_path` makes them one at a time: list(sgd_path(...)) stores the parameters of all steps, T + 1 times their
size; the generator itself computes the path once more for each use, and keeps two.

References: P. Domingos, "Every model learned by gradient descent is approximately a kernel machine", arXiv 2012.00152, definitions 1 and 2 and
theorem 1: (2), (3); B. Bell et al., "An exact kernel equivalence for finite classification models", arXiv 2308.00824, section 3: (5).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.gradients import total, zeros
from refimpl.number_system import (
    SIXTEEN_BITS,
    Array,
    device_of,
    exact,
    is_ball,
    namespace,
    narrowed,
    whole_number,
    widened,
)
from refimpl.trees import Tree, added, leaves, mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from fractions import Fraction

    from refimpl.gradients import Pullback

__all__ = [
    "Form",
    "Loss",
    "Model",
    "Reconstruction",
    "Reduction",
    "Step",
    "averaged_gradients",
    "inner_products",
    "legendre_rule",
    "output_gradients",
    "path_kernel",
    "read_out",
    "reconstruct",
    "sgd_path",
    "squared_error",
    "tangent_kernel",
    "tangent_product",
]

Model = Any  # Callable[[Tree, Tree], tuple[Array, Callable[[Array], Tree]]]: θ, x -> y, pullback
Loss = Any  # Callable[[Array, Tree], tuple[Array, Array]]: y, targets -> ℓ (n,), ∂ℓ/∂y
Form = Literal["first-order", "exact"]
Reduction = Literal["sum", "mean"]
_MOST_NODES = 64


class Step(NamedTuple):
    """One step of gradient descent: after = before - Σ_i <weight_i, ∇y(x_i; before)>."""

    before: Tree  # θ_t
    after: Tree  # θ_{t+1}
    batch: tuple[int, ...]  # the numbers of the examples that were used
    weights: Array  # (b, ...), rate · ℓ'_i, for each example of the batch
    rate: Any  # η, divided by the size of the batch where the loss is a mean
    losses: Array  # (b,), ℓ_i before the step


class Reconstruction(NamedTuple):
    """Outputs as sums over training examples: final = initial + Σ_i contributions_i + residual."""

    initial: Array  # (m, ...), y_0
    contributions: Array  # (n, m, ...): of each training example to each output, signed
    final: Array  # (m, ...), y_T
    residual: Array  # (m, ...): rounding and quadrature in the exact form, O(η) in the other


# --- parts ----------------------------------------------------------------------------------------------------------------------------


def _count(x: Tree, where: str) -> int:
    """How many examples the first axes of all arrays hold."""
    lengths = {int(part.shape[0]) if part.shape else 0 for part in leaves(x)}
    if len(lengths) != 1 or 0 in lengths:
        shapes = ", ".join(str(tuple(part.shape)) for part in leaves(x)) or "no arrays"
        expected = "one length, at least 1, in all arrays"
        raise ShapeError("the first axis counts the examples", where=where, expected=expected, got=shapes)
    return lengths.pop()


def _picked(x: Tree, numbers: Sequence[int]) -> Tree:  # (n, ...) -> (b, ...)
    """The examples with these numbers."""

    def rows(part: Array) -> Array:
        xp = namespace(part)
        return xp.take(part, xp.asarray(list(numbers), dtype=xp.int64, device=device_of(part)), axis=0)

    return mapped(rows, x)


def _run(model: Model, params: Tree, x: Tree) -> tuple[Array, Callable[[Array], Tree]]:
    """What the model returns, if it has one output for each example."""
    y, pullback = model(params, x)
    count = _count(x, "x")
    if not y.shape or y.shape[0] != count:
        expected = f"({count}, ...): one output for each example"
        raise ShapeError("outputs do not fit the examples", where="model", expected=expected, got=tuple(y.shape))
    return y, pullback


def read_out(rule: Callable[[Tree, Tree], tuple[Any, Pullback]], r: Array | None = None) -> Model:
    """y_n = <r, f(θ, x_n)>, or f(θ, x_n) itself: a model made of a definition's rule.

    Parameters
    ----------
    rule : θ, x -> f(θ, x) (n, ...), pullback, whose first result is θ̄; for instance lambda layer, x: pre_ln_vjp(layer, x, form). Of several
        results, the first is taken
    r : array in the shape of one example's f; None: f is the output

    Returns
    -------
    function, a model (see the module)
    """

    def model(params: Tree, x: Tree) -> tuple[Array, Callable[[Array], Tree]]:
        results, pullback = rule(params, x)
        value = results[0] if type(results) is tuple else results
        if r is None:
            return value, lambda y_bar: pullback(y_bar)[0]
        xp, size = namespace(value), math.prod(value.shape[1:])
        flat, row = widened(xp.reshape(value, (-1, size))), widened(xp.reshape(r, (1, size)))

        def pulled(y_bar: Array) -> Tree:
            return pullback(_as_dtype_of(value, xp.reshape(widened(y_bar)[:, None] * row, value.shape)))[0]

        return _as_dtype_of(value, xp.sum(flat * row, axis=-1)), pulled

    return model


def _units(y: Array) -> Iterator[Array]:  # (1, ...) -> (1, ...), as many as y has numbers
    """The cotangents that are 1 for one number and 0 for the others."""
    xp = namespace(y)
    places = xp.reshape(xp.arange(y.size, device=device_of(y)), y.shape)
    zero = zeros(y)
    one = zero + exact(1, y) if is_ball(y) else xp.ones_like(y)
    for place in range(y.size):
        yield xp.where(places == place, one, zero)


def _each_gradient(model: Model, params: Tree, x: Tree) -> Iterator[tuple[tuple[int, ...], Tree]]:
    """The shape of an output, and the gradient of each of its numbers, example by example: one pullback each, of a batch of one example."""
    for number in range(_count(x, "x")):
        y, pullback = _run(model, params, _picked(x, [number]))
        for unit in _units(y):
            yield tuple(y.shape[1:]), mapped(widened, pullback(unit))


def output_gradients(model: Model, params: Tree, x: Tree) -> Tree:  # (n, ...) -> tree of (n, ..., *leaf)
    """∇y(x; θ) of every number of every output: the Jacobian.

    Parameters
    ----------
    model : function (see the module)
    params : tree of arrays, the model's parameters
    x : array, or tree of arrays, of n >= 1 examples in the first axis

    Returns
    -------
    tree in the form of the parameters; a leaf has the axes of the outputs (n, ...) before its own. 16-bit gradients are returned in float32

    Raises
    ------
    ShapeError
        if the arrays in `x` differ in length or hold no example, or the model does not return one output for each.
    """
    shapes, found = zip(*_each_gradient(model, params, x), strict=True)

    def stacked(*parts: Array) -> Array:
        xp = namespace(*parts)
        return xp.reshape(xp.stack(parts), (-1, *shapes[0], *parts[0].shape))

    return mapped(stacked, *found)


def inner_products(
    left: Tree, right: Tree, rows: int, columns: int
) -> Array:  # (rows, ...), (columns, ...) -> (rows, columns)
    """<g_i, h_j> = Σ over all parameters of g_i h_j, for trees of `rows` and of `columns` gradients in leading axes."""

    def products(one: Array, other: Array) -> Array:
        xp = namespace(one, other)
        size = one.size // rows
        return xp.matmul(xp.reshape(one, (rows, size)), xp.matrix_transpose(xp.reshape(other, (columns, size))))

    return functools.reduce(lambda sum_, part: sum_ + part, leaves(mapped(products, left, right)))


def _kernel(left: Tree, right: Tree, params: Tree) -> Array:  # (n, o..., *leaf), (m, o..., *leaf) -> (n, m, o..., o...)
    """Gradients times gradients, the two numbers of the examples before the axes of the outputs."""
    first, second, own = leaves(left)[0], leaves(right)[0], leaves(params)[0]
    outer = first.ndim - own.ndim
    shapes = first.shape[:outer], second.shape[:outer]
    flat = inner_products(left, right, math.prod(shapes[0]), math.prod(shapes[1]))
    xp = namespace(flat)
    kernel = xp.permute_dims(
        xp.reshape(flat, (*shapes[0], *shapes[1])), (0, outer, *range(1, outer), *range(outer + 1, 2 * outer))
    )
    return _as_dtype_of(params, kernel)


def _as_dtype_of(tree: Tree, x: Array) -> Array:
    """`x`, rounded if the arrays of the tree have 16 bits."""
    dtype = leaves(tree)[0].dtype
    return narrowed(x, dtype) if str(dtype) in SIXTEEN_BITS else x


def legendre_rule(count: int, like: Array) -> list[tuple[Any, Any]]:
    """Scalars (s, w) beside `like` with  ∫_0^1 f(s) ds = Σ w f(s)  for polynomials f of degree 2 count - 1.

    s = (1 + z)/2, w = 1/((1 - z²) P'(z)²), z the roots of the Legendre polynomial P of degree `count`, from 1 to 64. On balls they enclose the
    exact ones.
    """
    count = _checked_nodes(count)
    if is_ball(like):
        rule = [type(exact(0, like)).legendre_p_root(count, k, weight=True) for k in range(count)]
        return [((1 + z) / 2, weight / 2) for z, weight in rule]
    rule = [_legendre_root(count, k) for k in range(count)]
    return [((1 + z) / 2, 1 / ((1 - z * z) * slope * slope)) for z, slope in rule]


def _checked_nodes(count: int) -> int:
    whole = whole_number(count)
    if whole is None or not 1 <= whole <= _MOST_NODES:
        expected = f"a whole number from 1 to {_MOST_NODES}"
        raise ConfigError("no such number of nodes", where="nodes", expected=expected, got=repr(count))
    return whole


def _legendre_root(count: int, k: int) -> tuple[float, float]:
    """The k-th root of P_n and P'_n there, by Newton's method: (j+1) P_{j+1} = (2j+1) z P_j - j P_{j-1}, (1 - z²) P'_n = n (P_{n-1} - z P_n)."""
    z, slope = math.cos(math.pi * (k + 0.75) / (count + 0.5)), 0.0
    for _ in range(8):  # the first guess has an error below 1/n², which each step squares
        before, p = 0.0, 1.0
        for j in range(count):
            before, p = p, ((2 * j + 1) * z * p - j * before) / (j + 1)
        slope = count * (before - z * p) / (1 - z * z)
        z -= p / slope
    return z, slope


# --- kernels --------------------------------------------------------------------------------------------------------------------------


def tangent_kernel(
    model: Model, params: Tree, x: Tree, x2: Tree = None
) -> Array:  # (n, ...), (m, ...) -> (n, m, o..., o...)
    """K(x, x') = <∇y(x; θ), ∇y(x'; θ)>.

    Parameters
    ----------
    model : function (see the module)
    params : tree of arrays, θ
    x : array, or tree of arrays, of n examples
    x2 : the same of m examples; None: `x`

    Returns
    -------
    array, (n, m), and for outputs of shape o the axes o twice behind them: those of y(x), then those of y(x'). The dtype of the parameters.
    All gradients of `x` and of `x2` are held at once; `tangent_product` does not

    Raises
    ------
    ShapeError
        as `output_gradients`.
    """
    left = output_gradients(model, params, x)
    return _kernel(left, left if x2 is None else output_gradients(model, params, x2), params)


def tangent_product(
    model: Model, params: Tree, x: Tree, x2: Tree, v: Array, *, jvp: Callable[..., Any] | None = None
) -> Array:  # (n, ...), (m, ...), (m, o...) -> (n, o...)
    """Σ_j K(x, x'_j) v_j = J(x) J(x')ᵀ v, without a kernel or a Jacobian: one pullback and one derivative along its result.

    Parameters
    ----------
    model, params, x, x2 : as `tangent_kernel`
    v : array, (m, o...), one number for each of the outputs of `x2`
    jvp : (function, arguments, tangents) -> value, derivative along the tangents, such as `refimpl.complex_step.jvp`. None: one pullback for each
        number of the outputs of `x`, held one at a time

    Returns
    -------
    array, (n, o...)

    Raises
    ------
    ShapeError
        as `output_gradients`, or from the model's pullback, if `v` does not fit the outputs.
    """
    along = _run(model, params, x2)[1](v)
    if jvp is not None:
        return jvp(lambda at, given: model(at, given)[0], (params, x), (along, None))[1]
    shapes, found = zip(
        *(
            (shape, inner_products(each, mapped(widened, along), 1, 1))
            for shape, each in _each_gradient(model, params, x)
        ),
        strict=True,
    )
    xp = namespace(*found)
    return _as_dtype_of(params, xp.reshape(xp.stack(found), (-1, *shapes[0])))


# --- paths ----------------------------------------------------------------------------------------------------------------------------


def squared_error(y: Array, targets: Array) -> tuple[Array, Array]:  # (n, ...), (n, ...) -> (n,), (n, ...)
    """ℓ = |y - target|²/2, and ∂ℓ/∂y = y - target; ShapeError where the shapes differ."""
    if tuple(y.shape) != tuple(targets.shape):
        expected, got = f"targets of the outputs' shape {tuple(y.shape)}", tuple(targets.shape)
        raise ShapeError("outputs and targets do not fit", where="squared_error", expected=expected, got=got)
    xp, gap = namespace(y, targets), y - targets
    return xp.sum(xp.reshape(gap * gap, (gap.shape[0], -1)), axis=-1) / 2, gap


def _checked_batch(batch: Sequence[int], count: int, t: int) -> tuple[int, ...]:
    try:
        given = tuple(batch)
    except TypeError:
        expected, got = "for each step a sequence of numbers of examples, such as [[0, 1], [2]]", repr(batch)
        raise ConfigError("a batch is no single number", where=f"batches[{t}]", expected=expected, got=got) from None
    numbers = tuple(whole_number(number) for number in given)
    if not numbers or not all(number is not None and 0 <= number < count for number in numbers):
        expected = f"numbers of examples from 0 to {count - 1}, at least one"
        raise ConfigError("no such batch", where=f"batches[{t}]", expected=expected, got=given)
    return numbers  # type: ignore[return-value]


def _check_params(params: Tree) -> None:
    narrow = sorted({str(leaf.dtype) for leaf in leaves(params)} & set(SIXTEEN_BITS))
    if narrow:
        remedy = "keep the parameters in float32 or float64: a step is mostly below the last place of a 16-bit one"
        raise DtypeError("no path of 16-bit parameters", where="params", got=", ".join(narrow), remedy=remedy)


def sgd_path(
    model: Model,
    params: Tree,
    x: Tree,
    targets: Tree,
    loss: Loss,
    *,
    rate: float | Fraction | Sequence[float | Fraction],
    batches: Iterable[Sequence[int]],
    reduction: Reduction,
) -> Iterator[Step]:
    """θ_{t+1} = θ_t - η_t Σ_i ∇ℓ_i(y(x_i; θ_t)) over the examples i of batch t; for "mean", with η_t/b, b the size of the batch.

    Parameters
    ----------
    model : function (see the module)
    params : tree of arrays, θ_0
    x : array, or tree of arrays, of n examples
    targets : the same, of what `loss` compares outputs with
    loss : function of outputs (b, ...) and targets of a batch; it returns each example's loss (b,), and its derivative by the outputs (b, ...)
    rate : η, one finite number, or a sequence or array of them, the first of which are taken: there may be more of them than steps
    batches : for each step the numbers of its examples; [range(n)] * 200 are 200 steps of full-batch descent
    reduction : "sum", as in theorem 1 of the paper, or "mean"

    Yields
    ------
    Step, when it is asked for: list(sgd_path(...)) stores all of them, T + 1 times the parameters. Nothing is looked at before the first step is
    asked for: errors come then, those of a later step's batch or rate at that step

    Raises
    ------
    ConfigError, DtypeError, ShapeError
        if a batch is empty or names an example that there is not, rates are fewer than steps or not finite, `reduction` is neither word, parameters
        have 16 bits, arrays of examples differ in length, or what the loss or the model returns has not the shape of what it is for.
    """
    count = _count((x, targets), "x, targets")
    if reduction not in ("sum", "mean"):
        expected, got = '"sum" or "mean"', repr(reduction)
        raise ConfigError("a loss is a sum or a mean over the batch", where="reduction", expected=expected, got=got)
    _check_params(params)
    for t, batch in enumerate(batches):
        numbers = _checked_batch(batch, count, t)
        step = _step(model, params, _picked(x, numbers), _picked(targets, numbers), loss, _rate(rate, t), reduction)
        yield step._replace(batch=numbers)
        params = step.after


def _rate(rate: Any, t: int) -> Any:
    """η_t: a number is the rate of every step. NumPy's scalars can be indexed, but have no axes."""
    many = rate.ndim > 0 if hasattr(rate, "ndim") else hasattr(rate, "__getitem__")
    if many and t >= len(rate):
        raise ConfigError("too few rates", where="rate", expected=f"one for each step, {t + 1} or more", got=len(rate))
    chosen = rate[t] if many else rate
    finite = chosen.is_finite() if hasattr(chosen, "is_finite") else math.isfinite(chosen)
    if not finite:
        raise ConfigError("no such rate", where=f"rate of step {t}", expected="a finite number", got=repr(chosen))
    return chosen


def _moved(leaf: Array, change: Array) -> Array:  # (...), (...) -> (...)
    if tuple(change.shape) != tuple(leaf.shape):
        expected, got = f"a gradient of the parameter's shape {tuple(leaf.shape)}", tuple(change.shape)
        raise ShapeError("the pullback does not fit the parameters", where="model", expected=expected, got=got)
    return leaf - change


def _step(model: Model, params: Tree, x: Tree, targets: Tree, loss: Loss, rate: Any, reduction: Reduction) -> Step:
    """One step on one batch."""
    y, pullback = _run(model, params, x)
    losses, slopes = loss(y, targets)
    if tuple(losses.shape) != tuple(y.shape[:1]) or tuple(slopes.shape) != tuple(y.shape):
        expected = f"losses {tuple(y.shape[:1])} and their derivatives {tuple(y.shape)}"
        got = f"{tuple(losses.shape)} and {tuple(slopes.shape)}"
        raise ShapeError("the loss does not fit the outputs", where="loss", expected=expected, got=got)
    scale = exact(rate, y) / (y.shape[0] if reduction == "mean" else 1)
    weights = slopes * scale
    after = mapped(_moved, params, pullback(weights))
    return Step(params, after, (), weights, scale, losses)


# --- along a path ---------------------------------------------------------------------------------------------------------------------


def averaged_gradients(
    model: Model, before: Tree, after: Tree, x: Tree, nodes: int = 4
) -> Tree:  # (m, ...) -> tree of (m, o..., *leaf)
    """∫_0^1 ∇y(x; θ + s (θ' - θ)) ds, the left factor of (4), by the rule of Gauss and Legendre with `nodes` nodes.

    `before` and `after` are θ and θ'; the rest is as for `output_gradients`.
    """

    def at(s: Any) -> Tree:
        return mapped(lambda start, end: start + s * (end - start), before, after)

    parts = [
        mapped(lambda leaf, w=w: w * leaf, output_gradients(model, at(s), x))
        for s, w in legendre_rule(nodes, leaves(before)[0])
    ]
    return functools.reduce(added, parts)


def _along(model: Model, step: Step, x: Tree, form: Form, nodes: int) -> Tree:  # -> tree of (m, o..., *leaf)
    """∇y(x; θ_t), or its mean over the segment to θ_{t+1}."""
    if form == "first-order":
        return output_gradients(model, step.before, x)
    return averaged_gradients(model, step.before, step.after, x, nodes)


def _check_form(form: str, nodes: int) -> None:
    if form not in ("first-order", "exact"):
        raise ConfigError("unknown form", where="form", expected='"first-order" or "exact"', got=repr(form))
    _checked_nodes(nodes)


def _no_steps() -> ConfigError:
    remedy = "a generator is used up once it has been read: make it again, or keep list(sgd_path(...))"
    return ConfigError("the path has no steps", where="path", expected="at least one", got=0, remedy=remedy)


def path_kernel(
    model: Model, path: Iterable[Step], x: Tree, x2: Tree = None, *, form: Form = "first-order", nodes: int = 4
) -> Array:  # (n, ...), (m, ...) -> (n, m, o..., o...)
    """Σ_t η_t K_t(x, x'), or Σ_t η_t K̄_t(x, x') in the exact form.

    The first is symmetric and positive semidefinite; the second is neither, since its gradients at `x` are means over segments and those at `x2`
    stand at their beginnings (PATHKERNEL-3).

    Parameters
    ----------
    model : function (see the module)
    path : the steps, of `sgd_path`
    x, x2 : as `tangent_kernel`
    form : "first-order" or "exact"
    nodes : of the integral over a segment, from 1 to 64

    Returns
    -------
    array, the form of `tangent_kernel`'s

    Raises
    ------
    ConfigError, ShapeError
        if there are no steps, `form` or `nodes` is not one of those; and as `tangent_kernel`.
    """
    _check_form(form, nodes)
    kernel = None
    for step in path:
        left = _along(model, step, x, form, nodes)
        right = (
            left
            if form == "first-order" and x2 is None
            else output_gradients(model, step.before, x if x2 is None else x2)
        )
        part = step.rate * _kernel(left, right, step.before)
        kernel = total(kernel, part)
    if kernel is None:
        raise _no_steps()
    return kernel


def _contributions(model: Model, step: Step, gradients: Tree, y: Array, examples: Tree) -> Iterator[Array]:
    """-<∇y(x), Σ_o weight_io ∇y_o(x_i; θ_t)> for each example i of the batch, (m, ...): one pullback for an example."""
    for place, number in enumerate(step.batch):
        _, pullback = _run(model, step.before, _picked(examples, [number]))
        given = pullback(step.weights[place : place + 1, ...])
        yield -namespace(y).reshape(inner_products(gradients, given, y.size, 1), y.shape)


def reconstruct(
    model: Model,
    path: Iterable[Step],
    x: Tree,
    examples: Tree,
    *,
    of: Model | None = None,
    form: Form = "exact",
    nodes: int = 4,
) -> Reconstruction:  # (m, ...), (n, ...) -> (m, o...), (n, m, o...), (m, o...), (m, o...)
    """y_T(x) = y_0(x) + Σ_i c_i(x) + residual, c_i(x) = -Σ_t η_t K̄_t(x, x_i) ℓ'_i(t), or with K_t in the first-order form.

    Parameters
    ----------
    model : function (see the module)
    path : the steps, of `sgd_path`; one step alone gives what its examples contributed at that step
    x : array, or tree of arrays, of m examples, whose outputs are taken apart
    examples : array, or tree of arrays: the n training examples that the path was made with
    of : another model of the same parameters, whose outputs at `x` are taken apart: one logit of a network that was trained on others, for
        instance. None: `model`
    form : "first-order", with a residual of O(η), or "exact", with one of rounding and quadrature alone
    nodes : of the integral over a segment, from 1 to 64

    Returns
    -------
    Reconstruction. The parameters of two steps, the gradients of all outputs of `x` and that of one training example are held at once

    Raises
    ------
    ConfigError, ShapeError
        if there are no steps, they name examples that there are not, `form` or `nodes` is not one of those; and as `tangent_kernel`.
    """
    _check_form(form, nodes)
    asked = model if of is None else of
    count, step, initial = _count(examples, "examples"), None, None
    parts: dict[int, Array] = {}
    for t, step in enumerate(path):
        initial = _run(asked, step.before, x)[0] if initial is None else initial
        numbers = _checked_batch(step.batch, count, t)
        gradients = _along(asked, step, x, form, nodes)
        for number, part in zip(numbers, _contributions(model, step, gradients, initial, examples), strict=True):
            parts[number] = total(parts.get(number), part)
    if step is None or initial is None:
        raise _no_steps()
    final, xp = _run(asked, step.after, x)[0], namespace(initial)
    contributions = xp.stack([parts[number] if number in parts else zeros(initial) for number in range(count)])
    residual = final - (initial + xp.sum(contributions, axis=0))
    return Reconstruction(initial, contributions, final, residual)
