"""Claims PATHKERNEL-1 to PATHKERNEL-5: gradient descent as a kernel machine.

The networks that statements are tried on, a perceptron with two outputs, a GPT-2 block, and two RealFormer layers, the second with the scores of the
first, are those of `networks`; `benchmarks/path_kernel_residual.py` draws their residuals.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import flint
import numpy as np

from refimpl import blocks, mlp, path_kernel
from refimpl.activation import relu
from refimpl.parameters import Block, Linear, product_vjp
from refimpl.trees import leaves, mapped
from validation import truth
from validation.claims.registry import Outcome, Setting, claim

if TYPE_CHECKING:
    from refimpl.path_kernel import Form, Step

DOMINGOS = "P. Domingos, arXiv 2012.00152"
EXACT = "B. Bell et al., arXiv 2308.00824"
WIDTH, LENGTH, EXAMPLES = 16, 4, 3


class Network(NamedTuple):
    """A model, where it starts, what it learns, inputs that it does not learn, and how long it is trained: the sum of the steps' sizes."""

    model: Any
    params: Any
    x: Any
    targets: Any
    other: Any
    time: float = 0.0


def _perceptron(rng: np.random.Generator) -> Network:
    sizes = (3, 8, 8, 2)
    params = tuple(
        Linear(rng.normal(size=(a, b)) / math.sqrt(a), rng.normal(size=b) / 8) for a, b in itertools.pairwise(sizes)
    )
    x, targets, other = rng.normal(size=(EXAMPLES, 3)), rng.normal(size=(EXAMPLES, 2)), rng.normal(size=(2, 3))
    return Network(path_kernel.read_out(mlp.perceptron_vjp), params, x, targets, other)


def _block(rng: np.random.Generator) -> Block:
    shapes = Block.shapes(WIDTH, 2 * WIDTH)
    spread = {name: 1 / math.sqrt(shape[0]) if len(shape) == 2 else 0.1 for name, shape in shapes.items()}
    arrays = {n: rng.normal(float(n.endswith("scale")), spread[n], shape) for n, shape in shapes.items()}
    return Block.from_named(arrays, "")


def _tokens(rng: np.random.Generator, rule: Any, params: Any) -> Network:
    r = rng.normal(size=(LENGTH, WIDTH)) / math.sqrt(LENGTH * WIDTH)
    x, other = rng.normal(size=(EXAMPLES, LENGTH, WIDTH)), rng.normal(size=(2, LENGTH, WIDTH))
    return Network(path_kernel.read_out(rule, r), params, x, rng.normal(size=EXAMPLES), other)


def _gpt2_block(rng: np.random.Generator) -> Network:
    form, mask = blocks.Form(2, 1e-5, "tanh"), np.tri(LENGTH, dtype=bool)
    return _tokens(rng, lambda layer, x: blocks.pre_ln_vjp(layer, x, form, mask=mask), _block(rng))


def _realformer(rng: np.random.Generator) -> Network:
    form = blocks.Form(2, 1e-12, "none")

    def rule(layers: Any, x: Any) -> Any:
        (middle, seen), first = blocks.realformer_vjp(layers[0], x, form)
        (last, _), second = blocks.realformer_vjp(layers[1], middle, form, previous_scores=seen.scores)

        def pullback(bar: Any) -> Any:
            upper, middle_bar, scores_bar, *_ = second(bar)
            lower, x_bar, *_ = first(middle_bar, blocks.Attended(scores_bar, None, None))
            return (lower, upper), x_bar

        return last, pullback

    return _tokens(rng, rule, (_block(rng), _block(rng)))


def networks(seed: int) -> dict[str, Network]:
    """The networks by name, drawn from a seed; trained for a sixteenth of the inverse trace of the tangent kernel: errors fall as exp(-K t)."""
    kinds = {"perceptron": _perceptron, "GPT-2 block": _gpt2_block, "RealFormer layers": _realformer}
    return {name: _timed(draw(np.random.default_rng([seed, i]))) for i, (name, draw) in enumerate(kinds.items())}


def _timed(network: Network) -> Network:
    gram = _flat(path_kernel.tangent_kernel(network.model, network.params, network.x))
    return network._replace(time=0.0625 / float(np.trace(gram)))


def path_of(network: Network, steps: int) -> list[Step]:
    """Full-batch descent on squared errors, summed, in so many steps."""
    options: dict[str, Any] = {"rate": network.time / steps, "batches": [range(EXAMPLES)] * steps, "reduction": "sum"}
    given = (network.model, network.params, network.x, network.targets, path_kernel.squared_error)
    return list(path_kernel.sgd_path(*given, **options))


def residual(network: Network, steps: int, form: Form, nodes: int = 3) -> tuple[float, float, float]:
    """|residual| and |y_T - y_0| of the inputs not learned, and what is left of the loss before the last step."""
    path = path_of(network, steps)
    found = path_kernel.reconstruct(network.model, path, network.other, network.x, form=form, nodes=nodes)
    sizes = (float(np.linalg.norm(part)) for part in (found.residual, found.final - found.initial))
    return (*sizes, float(np.sum(path[-1].losses) / np.sum(path[0].losses)))


# --- exact arithmetic: binary fractions as balls of radius 0, which sums and products keep exact at enough bits -----------------------------

BITS = 1 << 14


def _bilinear(params: tuple[Any, Any], x: Any) -> tuple[Any, Any]:
    """y = x W_1 W_2 and its pullback."""
    h, first = product_vjp(x, params[0])
    y, second = product_vjp(h, params[1])

    def pullback(y_bar: Any) -> tuple[Any, Any]:
        h_bar, last = second(y_bar)
        x_bar, before = first(h_bar)
        return (before, last), x_bar

    return y, pullback


BILINEAR = path_kernel.read_out(_bilinear)
LINEAR = path_kernel.read_out(
    lambda weight, x: (lambda y, pullback: (y, lambda bar: pullback(bar)[::-1]))(*product_vjp(x, weight))
)


def _eighths(rng: np.random.Generator, *shape: int) -> Any:
    """Eighths from -1 to 1, as exact balls."""
    return truth.balls(rng.integers(-8, 9, shape) / 8)


def _exact_problem(rng: np.random.Generator, examples: int = 4) -> tuple[Any, Any, Any, Any]:
    """Parameters of the bilinear model (2 -> 2 -> 2), examples, targets, and three other inputs."""
    return (
        (_eighths(rng, 2, 2), _eighths(rng, 2, 2)),
        _eighths(rng, examples, 2),
        _eighths(rng, examples, 2),
        _eighths(rng, 3, 2),
    )


def _is_zero(array: Any) -> bool:
    """Whether all are balls of radius 0 about 0."""
    return all(ball == 0 for ball in array.ravel())


def _shown(array: Any) -> list[float]:
    """Balls, as their midpoints."""
    return [float(ball.mid()) for ball in array.ravel()]


def _rational(array: Any) -> list[list[Fraction]]:
    """A matrix of exact balls, or of floats, as fractions; raises ValueError for what is not exact."""

    def fraction(value: Any) -> Fraction:
        if isinstance(value, float):
            return Fraction(value)
        if not value.is_exact():
            raise ValueError(f"{value} is not exact")
        mantissa, exponent = map(int, value.man_exp())
        return Fraction(mantissa) * Fraction(2) ** exponent

    return [[fraction(value) for value in row] for row in array.tolist()]


def _is_semidefinite(rows: list[list[Fraction]]) -> bool:
    """Whether a symmetric matrix is positive semidefinite, by elimination: no pivot below 0, and nothing beside a pivot of 0."""
    if not rows:
        return True
    (pivot, *beside), *below = rows
    if pivot <= 0:
        return pivot == 0 and not any(beside) and _is_semidefinite([row[1:] for row in below])
    return _is_semidefinite([[a - row[0] * b / pivot for a, b in zip(row[1:], beside, strict=True)] for row in below])


def _flat(kernel: Any) -> Any:  # (n, m, o, o) -> (n o, m o)
    """A kernel as one matrix, over examples and numbers of outputs."""
    n, m, *outputs = kernel.shape
    half = math.prod(outputs[: len(outputs) // 2])
    return np.moveaxis(kernel.reshape(n, m, half, half), 2, 1).reshape(n * half, m * half)


SLOPE, STEPS = 0.02, (4, 8, 16)


@claim(
    "PATHKERNEL-1",
    "y_T(x) - y_0(x) + Σ_t η Σ_i ℓ'_i <∇y(x), ∇y(x_i)> at θ_t is O(η): first order in the step, and no higher unless the limit of its quotient by η "
    "is 0",
    source=f"{DOMINGOS}, theorem 1, whose limit is η -> 0",
    method="every model with two continuous derivatives, Δ_t = -η g(θ_t) the steps: by Taylor's theorem the residual is the sum over t of the "
    "integral of (1-s) Δ_tᵀ ∇²y(x; θ_t + sΔ_t) Δ_t over [0, 1]; with η T fixed, Euler's method converges to the flow, and residual/η to "
    "half the integral of gᵀ ∇²y g along it. The sum, exactly, for x W_1 W_2, where it is Σ x ΔW_1 ΔW_2: balls of radius 0. Slopes of "
    "log residual against log η of a perceptron, a GPT-2 block and RealFormer layers, 4, 8 and 16 steps: the last, and the one "
    "extrapolated to η = 0, within 0.02 of 1",
    expected="proved",
    cases=2 * 6 + 3 * 3,
)
def _first_order(setting: Setting) -> Outcome:
    rng, cases, shown = np.random.default_rng(setting.seed), 0, []
    with truth.precision(BITS):
        for _ in range(2):
            params, x, targets, other = _exact_problem(rng)
            path = list(
                path_kernel.sgd_path(
                    BILINEAR,
                    params,
                    x,
                    targets,
                    path_kernel.squared_error,
                    rate=1 / 8,
                    batches=[range(4)] * 4,
                    reduction="sum",
                )
            )
            found = path_kernel.reconstruct(BILINEAR, path, other, x, form="first-order")
            moves = [mapped(lambda after, before: after - before, step.after, step.before) for step in path]
            remainder = sum(np.matmul(np.matmul(other, first), second) for first, second in moves)
            cases += remainder.size
            if not _is_zero(found.residual - remainder) or _is_zero(remainder):
                return Outcome("refuted", cases, "x W_1 W_2: the residual is not Σ x ΔW_1 ΔW_2, or that is 0")
    for name, network in networks(setting.seed).items():
        sizes = [residual(network, steps, "first-order")[0] for steps in STEPS]
        slopes = [math.log2(a / b) for a, b in itertools.pairwise(sizes)]
        slopes.append(2 * slopes[1] - slopes[0])
        cases += len(sizes)
        shown.append(f"{name}: " + ", ".join(f"{slope:.3f}" for slope in slopes))
        if not all(abs(slope - 1) <= SLOPE for slope in slopes[1:]):
            return Outcome("refuted", cases, f"slopes, the last extrapolated, of the {shown[-1]}")
    return Outcome("proved", cases, "slopes, the last extrapolated: " + "; ".join(shown))


@claim(
    "PATHKERNEL-1.coefficients",
    "the sum of (3), -Σ_t η Σ_i ℓ'_i(t) K_t(x, x_i), is a kernel machine Σ_i a_i K(x, x_i) + b of the path kernel K = Σ_t η K_t, with numbers a_i "
    "and b that are the same for every x",
    source="the definition of a kernel machine; theorem 1 of arXiv 2012.00152 has a_i depend on x, as it says, and its title does not",
    method="x W_1 W_2 from W_1 = I, W_2 = (1, 1), one example (1, 0) with target 0, two steps of η = 1/8, in exact fractions. At 0, e_1 and e_2 K is "
    "0, 355/512 and -1/64, the sum 0, -18971/32768 and 41/4096: b = 0 at 0, then a = -18971/22720 at e_1 and -41/64 at e_2. So the "
    "determinant of the rows (K, 1, sum) is not 0, and no a and b satisfy the three equations",
    expected="refuted",
    cases=3,
)
def _coefficients_depend_on_x(setting: Setting) -> Outcome:
    params = tuple(truth.balls(np.array(w, dtype=float)) for w in ([[1, 0], [0, 1]], [[1], [1]]))
    x, other = (truth.balls(np.array(rows, dtype=float)) for rows in ([[1, 0]], [[0, 0], [1, 0], [0, 1]]))
    options: Any = {"rate": 1 / 8, "batches": [[0]] * 2, "reduction": "sum"}
    with truth.precision(BITS):
        path = list(
            path_kernel.sgd_path(
                BILINEAR, params, x, truth.balls(np.zeros((1, 1))), path_kernel.squared_error, **options
            )
        )
        found = path_kernel.reconstruct(BILINEAR, path, other, x, form="first-order")
        sums = _rational(found.contributions[0].T)[0]
        kernels = _rational(path_kernel.path_kernel(BILINEAR, path, other, x)[:, 0, :, 0].T)[0]
    (k0, k1, k2), (s0, s1, s2) = kernels, sums
    determinant = k0 * (s2 - s1) - k1 * (s2 - s0) + k2 * (s1 - s0)  # of the rows (K, 1, sum)
    shown = ", ".join(f"{kernel} and {sum_}" for kernel, sum_ in zip(kernels, sums, strict=True))
    verdict = "refuted" if determinant != 0 else "not refuted"
    return Outcome(verdict, 3, f"K and the sum at 0, e_1, e_2: {shown}; determinant {determinant}")


RELATIVE = 1e-10
LONG = {  # steps, how many times as long as for slopes, and nodes
    "perceptron": (50, 100, 3),
    "GPT-2 block": (200, 48, 2),
    "RealFormer layers": (25, 32, 3),
}


@claim(
    "PATHKERNEL-2",
    "for steps of any size y_T(x) - y_0(x) = -Σ_t η Σ_i ℓ'_i <mean of ∇y(x) over the segment from θ_t to θ_t+1, ∇y(x_i; θ_t)> exactly",
    source=f"{EXACT}, section 3",
    method="every differentiable model: y along a segment is the integral of its derivative <∇y, θ_t+1 - θ_t>, and θ_t+1 - θ_t = -η Σ ℓ'_i "
    "∇y(x_i). Exactly, balls of radius 0: x W_1 W_2, whose gradient is linear, one node. Balls, 16 nodes, a perceptron with tanh: "
    "residual below 1e-25. float64, two or three nodes: a GPT-2 block over 200 steps, a perceptron over 50, RealFormer layers over 25: "
    "below 1e-10 of |y_T - y_0|",
    expected="proved",
    cases=2 * 6 + 2 + 200 + 50 + 25,
)
def _finite_steps(setting: Setting) -> Outcome:
    rng, cases = np.random.default_rng(setting.seed), 0
    with truth.precision(BITS):
        for _ in range(2):
            params, x, targets, other = _exact_problem(rng)
            path = path_kernel.sgd_path(
                BILINEAR,
                params,
                x,
                targets,
                path_kernel.squared_error,
                rate=1 / 2,
                batches=[range(4)] * 4,
                reduction="sum",
            )
            found = path_kernel.reconstruct(BILINEAR, path, other, x, nodes=1)
            cases += other.size
            if not _is_zero(found.residual):
                return Outcome("refuted", cases, f"x W_1 W_2: the residual is {_shown(found.residual)}")
    gap, change = _on_balls(setting.seed)
    cases += gap.size
    widest = max(float(ball.abs_upper()) for ball in gap.ravel())
    if not (widest < 1e-25 and max(float(ball.abs_lower()) for ball in change.ravel()) > 1e-3):
        return Outcome("refuted", cases, f"on balls the residual is {_shown(gap)}, the change {_shown(change)}")
    worst, shown = 0.0, [f"balls {widest:.0e}"]
    for name, network in networks(setting.seed).items():
        steps, longer, nodes = LONG[name]
        one = network._replace(time=network.time * longer, other=network.other[:1])
        size, moved, left = residual(one, steps, "exact", nodes)
        worst, cases = max(worst, size / moved), cases + steps
        shown.append(f"{name} {size / moved:.1e}, {left:.0%} of the loss left")
        if not size <= RELATIVE * moved:
            return Outcome("refuted", cases, shown[-1])
    return Outcome("proved", cases, "residuals: " + "; ".join(shown), worst / RELATIVE)


def _on_balls(seed: int) -> tuple[Any, Any]:
    """The residual of a perceptron with tanh after two steps, and the change of its outputs, as balls."""
    network = _perceptron(np.random.default_rng([seed, 0]))
    with truth.precision(160):
        params, x, targets, other = mapped(
            truth.balls, (network.params[::2], network.x, network.targets, network.other[:1])
        )
        path = path_kernel.sgd_path(
            network.model,
            params,
            x,
            targets,
            path_kernel.squared_error,
            rate=1 / 64,
            batches=[[0, 1], [2]],
            reduction="sum",
        )
        found = path_kernel.reconstruct(network.model, path, other, x, nodes=16)
        return found.residual, found.final - found.initial


@claim(
    "PATHKERNEL-3",
    "Gram matrices of tangent kernels, and of path kernels in the first-order form, are symmetric positive semidefinite",
    source=f"{DOMINGOS}, definitions 1 and 2",
    method="every model: G = J Jᵀ with J the gradients, G_ij = G_ji term by term, vᵀ G v = |Jᵀ v|²; sums with steps >= 0 stay so. Exactly, "
    "balls of radius 0: a perceptron with ReLU, four steps, by elimination in fractions. float64, the three networks: |G - Gᵀ| and the "
    "least eigenvalue within γ_K tr G, γ_K = Ku/(1 - Ku), K = P + T + 2 for P parameters and T steps: each product passes at most so "
    "many roundings, and the error's norm is at most γ_K |J|²; that G + γ_K tr G is semidefinite is decided in fractions of the floats",
    expected="proved",
    cases=2 * 64 + 36 + 9 + 9,
)
def _gram_matrices(setting: Setting) -> Outcome:
    rng, cases, worst = np.random.default_rng(setting.seed), 0, 0.0
    model = path_kernel.read_out(lambda layers, x: mlp.perceptron_vjp(layers, x, relu))
    with truth.precision(BITS):
        params = tuple(Linear(_eighths(rng, a, b), _eighths(rng, b)) for a, b in ((2, 3), (3, 2)))
        x, targets = _eighths(rng, 4, 2), _eighths(rng, 4, 2)
        path = list(
            path_kernel.sgd_path(
                model,
                params,
                x,
                targets,
                path_kernel.squared_error,
                rate=1 / 8,
                batches=[range(4)] * 4,
                reduction="sum",
            )
        )
        for kernel in (path_kernel.tangent_kernel(model, params, x), path_kernel.path_kernel(model, path, x)):
            rows, cases = _rational(_flat(kernel)), cases + 64
            if [list(column) for column in zip(*rows, strict=True)] != rows or not _is_semidefinite(rows):
                return Outcome("refuted", cases, f"perceptron with ReLU: {_shown(kernel)}")
    for name, network in networks(setting.seed).items():
        path = path_of(network, 3)
        gram = _flat(path_kernel.path_kernel(network.model, path, network.x))
        count = sum(leaf.size for leaf in leaves(network.params)) + len(path) + 2
        margin = count * 2.0**-53 / (1 - count * 2.0**-53) * float(np.trace(gram)) * (1 + 2**-20)
        rows = _rational((gram + gram.T) / 2 + margin * np.eye(len(gram)))
        least = float(np.linalg.eigvalsh(gram)[0])
        cases, worst = cases + gram.size, max(worst, float(np.max(np.abs(gram - gram.T))) / margin, -least / margin)
        if not np.max(np.abs(gram - gram.T)) <= margin or not _is_semidefinite(rows):
            return Outcome("refuted", cases, f"{name}: least eigenvalue {least}, allowed {-margin}")
    return Outcome("proved", cases, f"in floats {worst:.1g} of the bound", worst)


@claim(
    "PATHKERNEL-3.exact",
    "the kernel of PATHKERNEL-2, with its mean over the segment at x and the segment's beginning at x', is a kernel: symmetric, K(x, x) >= 0",
    source="its name; PATHKERNEL-2 needs it between an input and a training example only",
    method="x W_1 W_2 in exact fractions: one step of size 1/8 with K(x, x') other than K(x', x); one step of size 1, which overshoots, with "
    "K(x, x) = -2",
    expected="refuted",
    cases=3,
)
def _averaged_kernel(setting: Setting) -> Outcome:
    def kernel(params: Any, x: Any, target: float, rate: float, at: Any) -> Any:
        params, x, at = mapped(lambda rows: truth.balls(np.array(rows, dtype=float)), (params, x, at))
        path = path_kernel.sgd_path(
            BILINEAR,
            params,
            x,
            truth.balls(np.array([[target]])),
            path_kernel.squared_error,
            rate=rate,
            batches=[[0]],
            reduction="sum",
        )
        return _rational(path_kernel.path_kernel(BILINEAR, path, at, form="exact", nodes=1)[:, :, 0, 0])

    with truth.precision(BITS):
        both = kernel((np.array([[1, 0], [2, 1]]), np.array([[1], [1]])), np.array([[1, 0]]), 2.0, 1 / 8, np.eye(2))
        ((own,),) = kernel((np.eye(1), np.eye(1)), np.eye(1), -3.0, 1.0, np.eye(1))
    (_, one), (two, _) = both
    verdict = "refuted" if one != two and own < 0 else "not refuted"
    return Outcome(
        verdict, 3, f"K(e_1, e_2) = {one}, K(e_2, e_1) = {two}; after a step that overshoots K(x, x) = {own}"
    )


def _quartic(y: Any, targets: Any) -> tuple[Any, Any]:  # (n, o), (n, o) -> (n,), (n, o)
    """ℓ = Σ (y - target)⁴/4, whose derivative is not linear."""
    gap = y - targets
    return (gap * gap * gap * gap).sum(axis=-1) / 4, gap * gap * gap


@claim(
    "PATHKERNEL-4",
    "a linear model y = w·x is a kernel machine with the kernel T x·x', T = Σ_t η_t: in both forms, for steps of any size and any loss",
    source=f"{DOMINGOS}; the ordinary sense of kernel machine",
    method="every w: ∇y = x at every w, hence K_t = x·x', and each step changes y(x) by -η Σ ℓ'_i x·x_i. Exactly, balls of radius 0: squared "
    "errors and fourth powers, sums and means, four rates: residuals 0, path kernels T x·x' times the identity of the outputs, and "
    "y_T(x) = y_0(x) + Σ_i a_i x·x_i with one a_i for every x",
    expected="proved",
    cases=2 * 2 * 2 * 3 * 3,
)
def _linear_model(setting: Setting) -> Outcome:
    rng, cases, rates = np.random.default_rng(setting.seed), 0, (1 / 8, 1 / 2, 1 / 16, 2.0)
    with truth.precision(BITS):
        for loss in (path_kernel.squared_error, _quartic):
            for reduction in ("sum", "mean"):
                weight, x, targets, other = (_eighths(rng, *shape) for shape in ((3, 2), (4, 3), (4, 2), (3, 3)))
                path = list(
                    path_kernel.sgd_path(
                        LINEAR, weight, x, targets, loss, rate=rates, batches=[range(4)] * 4, reduction=reduction
                    )
                )
                total = flint.arb(sum(rates)) / (4 if reduction == "mean" else 1)
                coefficients = -sum(step.weights for step in path)  # (n, o)
                expected = np.matmul(other, x.T)
                for form in ("first-order", "exact"):
                    found = path_kernel.reconstruct(LINEAR, path, other, x, form=form, nodes=1)
                    kernel = path_kernel.path_kernel(LINEAR, path, other, x, form=form, nodes=1)
                    identity = truth.balls(np.eye(2))
                    gaps = (
                        found.residual,
                        kernel - total * expected[..., None, None] * identity,
                        found.contributions - np.moveaxis(expected[..., None] * coefficients, 1, 0),
                    )
                    cases += 3 * len(other)
                    if not all(map(_is_zero, gaps)):
                        return Outcome(
                            "refuted", cases, f"{form}, {reduction}: differences {[_shown(gap) for gap in gaps]}"
                        )
    return Outcome("proved", cases, "every difference is 0, exactly")


@claim(
    "PATHKERNEL-5",
    "with minibatches only examples of the batch contribute at a step, and what they contribute adds up",
    source=f"{DOMINGOS}, of stochastic gradient descent",
    method="every model: θ_t+1 - θ_t is a sum over the batch. Exactly, balls of radius 0, x W_1 W_2, batches of 1, 2 and 4 examples, one twice "
    "in its own: at every step the others contribute 0 and the residual is 0; contributions of the whole path are the sums of those. "
    "Examples that are in no batch may hold anything: with NaN in them every number is the same in every bit, for a GPT-2 block",
    expected="proved",
    cases=5 * 3 * 5 + 2 * EXAMPLES,
)
def _minibatches(setting: Setting) -> Outcome:
    rng, batches, cases = np.random.default_rng(setting.seed), [[3], [1, 2], [4, 1, 3, 2], [2, 2], [1]], 0
    with truth.precision(BITS):
        params, x, targets, other = _exact_problem(rng, 5)
        path = list(
            path_kernel.sgd_path(
                BILINEAR, params, x, targets, path_kernel.squared_error, rate=1 / 4, batches=batches, reduction="mean"
            )
        )
        whole, total = path_kernel.reconstruct(BILINEAR, path, other, x, nodes=1), truth.balls(np.zeros((5, 3, 2)))
        for t, step in enumerate(path):
            found = path_kernel.reconstruct(BILINEAR, [step], other, x, nodes=1)
            outside = [number for number in range(5) if number not in batches[t]]
            total, cases = total + found.contributions, cases + 15
            if not _is_zero(found.residual) or not _is_zero(found.contributions[outside]):
                return Outcome(
                    "refuted",
                    cases,
                    f"step {t}: residual {_shown(found.residual)}, others {_shown(found.contributions[outside])}",
                )
            if any(_is_zero(found.contributions[number]) for number in batches[t]):
                return Outcome("refuted", cases, f"step {t}: an example of the batch contributes nothing")
        if not _is_zero(total - whole.contributions):
            return Outcome("refuted", cases, "steps do not add up to the path")
    network = networks(setting.seed)["GPT-2 block"]
    poisoned = np.where(np.arange(EXAMPLES)[:, None, None] == 1, np.nan, network.x)
    runs = []
    for given in (network.x, poisoned):
        path = list(
            path_kernel.sgd_path(
                network.model,
                network.params,
                given,
                network.targets,
                path_kernel.squared_error,
                rate=1e-4,
                batches=[[0], [2], [2, 0]],
                reduction="sum",
            )
        )
        runs.append(path_kernel.reconstruct(network.model, path, network.other, given))
    cases += 2 * EXAMPLES
    if any(a.tobytes() != b.tobytes() for a, b in zip(*runs, strict=True)):
        return Outcome("refuted", cases, "an example that is in no batch changes something")
    return Outcome("proved", cases, "the others contribute 0, exactly; NaN in them changes no bit")
