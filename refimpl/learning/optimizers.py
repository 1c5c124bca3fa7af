"""Optimizers: what a step of gradient descent does to the parameters, with g = ∂L/∂θ, learning rate η and decay λ.

    SGD        θ ← (1 - ηλ) θ - η g                                                                                              (1)
    momentum   m ← μ m + g                      θ ← (1 - ηλ) θ - η m                heavy ball; m = 0 at the start               (2)
    Nesterov   m ← μ m + g                      θ ← (1 - ηλ) θ - η (g + μ m)                                                     (3)
    AdamW      m ← β₁ m + (1 - β₁) g            v ← β₂ v + (1 - β₂) g²                                                           (4)
               m̂ = m/(1 - β₁ᵗ)                  v̂ = v/(1 - β₂ᵗ)                     t = 1 at the first step
               θ ← (1 - ηλ) θ - η m̂/(√v̂ + ε)

In (4) ε stands outside the root, beside the corrected v̂, as in the authors' algorithm 1; the shorter form after it has ε beside the root of the
uncorrected v, where the same number means 1/√(1 - β₂ᵗ) times as much. Decay is *decoupled* in all four: it is no part of g, so that momentum and v
do not see it, and it is multiplied by the learning rate of the step. (The paper on it writes η for the schedule's factor alone, and decays by ηλ
without the learning rate: its λ is our ηλ.) Which parameters decay is said by a predicate of name and array, `matrices` unless told otherwise.

In (3) θ is the point at which the gradient is taken: while η is constant and nothing decays, the look-ahead point θ + μv of Sutskever et al., whose
own θ is ours plus ημ m (v = -η m).

The rate of (2) and (3) multiplies the whole sum m, so that a change of η is felt at once by old gradients too; with η inside the sum, as
m ← μ m + η g, it would not be. The two agree while η is constant.

Parameters, gradients and moments are trees (`refimpl.trees`) on one array library, float32 or float64. 16-bit parameters are refused: an update
below half a unit in the last place of θ is lost, in bfloat16 everything below θ/512, and learning stops without a word. Keep float32 parameters
and round them for use. The constants are Python floats, so that the arrays' dtype decides; beside balls they are the binary doubles given.

References: B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comput. Math. Math. Phys. 4 (1964), equation (9);
I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013, equations (3), (4);
D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", arXiv 1412.6980, algorithm 1;
I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", arXiv 1711.05101, algorithms 1 and 2;
R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", arXiv 1211.5063, algorithm 1 (clipping).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.gradients import zeros
from refimpl.number_system import SIXTEEN_BITS, Array, check_floating, exact, namespace
from refimpl.trees import Tree, leaves, mapped, named_leaves, with_leaves

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SGD",
    "AdamState",
    "AdamW",
    "Momentum",
    "Optimizer",
    "adamw",
    "check_parameters",
    "clipped",
    "decayed_names",
    "global_norm",
    "matrices",
    "momentum",
    "sgd",
]


def sgd(x: Array, g: Array, rate: float, decay: float = 0.0) -> Array:  # (...), (...) -> (...)
    """θ ← (1 - ηλ) θ - η g."""
    return _shrunk(x, rate, decay) - exact(rate, x) * g


def momentum(
    x: Array, g: Array, m: Array, rate: float, mu: float, decay: float = 0.0, *, nesterov: bool = False
) -> tuple[Array, Array]:  # (...), (...), (...) -> (...), (...)
    """m ← μ m + g, θ ← (1 - ηλ) θ - η m; with `nesterov` θ ← (1 - ηλ) θ - η (g + μ m). Returns θ and m."""
    m = exact(mu, x) * m + g
    along = g + exact(mu, x) * m if nesterov else m
    return _shrunk(x, rate, decay) - exact(rate, x) * along, m


def adamw(
    x: Array, g: Array, m: Array, v: Array, t: int, rate: float, betas: tuple[float, float], eps: float, decay: float
) -> tuple[Array, Array, Array]:  # (...), (...), (...), (...) -> (...), (...), (...)
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², θ ← (1 - ηλ) θ - η m̂/(√v̂ + ε), m̂ = m/(1 - β₁ᵗ), v̂ = v/(1 - β₂ᵗ).

    `t` counts steps from 1. Returns θ, m and v.
    """
    one, first, second = exact(1, x), exact(betas[0], x), exact(betas[1], x)
    m = first * m + (one - first) * g
    v = second * v + (one - second) * (g * g)
    root = namespace(x).sqrt(v / (one - second**t)) + exact(eps, x)
    return _shrunk(x, rate, decay) - exact(rate, x) / (one - first**t) * m / root, m, v


def _shrunk(x: Array, rate: float, decay: float) -> Array:  # (...) -> (...)
    """(1 - ηλ) θ; θ itself for λ = 0."""
    return x if decay == 0 else (exact(1, x) - exact(rate, x) * exact(decay, x)) * x


# --- trees ----------------------------------------------------------------------------------------------------------------------------


def matrices(name: str, leaf: Array) -> bool:
    """Whether a parameter has two axes or more: weights and embeddings decay, biases and the scales of norms do not."""
    return bool(leaf.ndim >= 2)


def decayed_names(decays: Callable[[str, Array], bool], parameters: Tree) -> list[str]:
    """The names of the parameters that decay, in the tree's order."""
    return [name for name, leaf in named_leaves(parameters).items() if decays(name, leaf)]


def _decay_of(decays: Callable[[str, Array], bool], parameters: Tree, decay: float) -> Tree:
    """λ or 0 for each leaf, in a tree of the parameters' form."""
    each = [decay if decays(name, leaf) else 0.0 for name, leaf in named_leaves(parameters).items()]
    return with_leaves(parameters, each)


def check_parameters(parameters: Tree) -> None:
    """Raise DtypeError or ShapeError unless every leaf is a float32 or float64 array (or of balls), and there is one."""
    found = named_leaves(parameters)
    if not found:
        raise ShapeError("there is nothing to learn", where="parameters", expected="at least one array", got="none")
    for name, leaf in found.items():
        check_floating(name, leaf)
        if str(leaf.dtype) in SIXTEEN_BITS:
            raise DtypeError(
                "16-bit parameters do not learn: small updates are rounded away",
                where=name,
                expected="float32 or float64",
                got=leaf.dtype,
                remedy='load them with dtype="float32", and round a copy for use',
            )


def _part(index: int, parts: list[tuple[Array, ...]], like: Tree) -> Tree:
    """The index-th of each leaf's results, in a tree of the form of `like`."""
    return with_leaves(like, (part[index] for part in parts))


def _together(function: Callable[..., tuple[Array, ...]], tree: Tree, *others: Tree) -> list[tuple[Array, ...]]:
    """function(leaf, ...) for each leaf, in the tree's order; ShapeError where the forms differ."""
    found: list[tuple[Array, ...]] = []

    def kept(*group: Any) -> Any:
        found.append(function(*group))
        return group[0]

    mapped(kept, tree, *others)
    return found


class Optimizer(Protocol):
    """What a training needs: the state to begin with, and a step that mutates nothing."""

    def start(self, parameters: Tree) -> Tree:
        """The state before the first step; DtypeError for 16-bit parameters."""

    def step(self, parameters: Tree, gradients: Tree, state: Tree, rate: float) -> tuple[Tree, Tree]:
        """The parameters and the state after one step at this learning rate."""

    def described(self, parameters: Tree) -> dict[str, Any]:
        """Everything that decides what a step does, as JSON can say it."""


def _described(optimizer: Any, parameters: Tree) -> dict[str, Any]:
    constants = {name: value for name, value in vars(optimizer).items() if name != "decays"}
    decayed = decayed_names(optimizer.decays, parameters) if optimizer.decay else []
    return {"kind": type(optimizer).__name__} | constants | {"decayed": decayed}


def _check_range(where: str, good: bool, **constants: float) -> None:
    wrong = {name: value for name, value in constants.items() if not 0 <= value < math.inf}
    if wrong or not good:
        raise ConfigError(
            "a constant of the optimizer is out of range",
            where=where,
            expected="decay >= 0, eps > 0, both finite, and 0 <= momentum, betas < 1",
            got=", ".join(f"{name} = {value!r}" for name, value in (wrong or constants).items()),
        )


def _as_floats(optimizer: Any, *names: str) -> None:
    """Constants as Python's floats: JSON has no numbers of NumPy."""
    for name in names:
        object.__setattr__(optimizer, name, float(getattr(optimizer, name)))


@dataclass(frozen=True)
class SGD:
    """θ ← (1 - ηλ) θ - η g; there is no state."""

    decay: float = 0.0
    decays: Callable[[str, Array], bool] = matrices

    def __post_init__(self) -> None:
        _check_range("SGD", True, decay=self.decay)
        _as_floats(self, "decay")

    def start(self, parameters: Tree) -> Tree:
        """No state: None."""
        check_parameters(parameters)

    def step(self, parameters: Tree, gradients: Tree, state: Tree, rate: float) -> tuple[Tree, Tree]:
        """Equation (1) for every leaf."""
        decay = _decay_of(self.decays, parameters, self.decay)
        return mapped(lambda x, g, by: sgd(x, g, rate, by), parameters, gradients, decay), state

    def described(self, parameters: Tree) -> dict[str, Any]:
        """The constants, and the names of the parameters that decay."""
        return _described(self, parameters)


@dataclass(frozen=True)
class Momentum:
    """m ← μ m + g, θ ← (1 - ηλ) θ - η m, or - η (g + μ m) with `nesterov`; the state is m."""

    momentum: float = 0.9
    nesterov: bool = False
    decay: float = 0.0
    decays: Callable[[str, Array], bool] = matrices

    def __post_init__(self) -> None:
        _check_range("Momentum", self.momentum < 1, momentum=self.momentum, decay=self.decay)
        _as_floats(self, "momentum", "decay")
        object.__setattr__(self, "nesterov", bool(self.nesterov))

    def start(self, parameters: Tree) -> Tree:
        """m = 0."""
        check_parameters(parameters)
        return zeros(parameters)

    def step(self, parameters: Tree, gradients: Tree, state: Tree, rate: float) -> tuple[Tree, Tree]:
        """Equation (2) or (3) for every leaf."""
        decay = _decay_of(self.decays, parameters, self.decay)

        def stepped(x: Array, g: Array, m: Array, by: float) -> tuple[Array, ...]:
            return momentum(x, g, m, rate, self.momentum, by, nesterov=self.nesterov)

        parts = _together(stepped, parameters, gradients, state, decay)
        return _part(0, parts, parameters), _part(1, parts, parameters)

    def described(self, parameters: Tree) -> dict[str, Any]:
        """The constants, and the names of the parameters that decay."""
        return _described(self, parameters)


class AdamState(NamedTuple):
    """What Adam remembers."""

    step: int  # steps taken: t of the last one
    mean: Tree  # m, of the parameters' form
    square: Tree  # v


@dataclass(frozen=True)
class AdamW:
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², θ ← (1 - ηλ) θ - η m̂/(√v̂ + ε); with `decay=0` this is Adam."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.01
    decays: Callable[[str, Array], bool] = matrices

    def __post_init__(self) -> None:
        if len(betas := tuple(self.betas)) != 2:
            raise ConfigError("Adam has two betas", where="AdamW(betas)", expected="(β₁, β₂)", got=repr(self.betas))
        first, second = betas
        good = max(first, second) < 1 and self.eps > 0  # where no gradient ever came, m̂/√v̂ is 0/0
        _check_range("AdamW", good, beta1=first, beta2=second, eps=self.eps, decay=self.decay)
        _as_floats(self, "eps", "decay")
        object.__setattr__(self, "betas", (float(first), float(second)))

    def start(self, parameters: Tree) -> AdamState:
        """t = 0, m = 0, v = 0."""
        check_parameters(parameters)
        return AdamState(0, zeros(parameters), zeros(parameters))

    def step(self, parameters: Tree, gradients: Tree, state: AdamState, rate: float) -> tuple[Tree, AdamState]:
        """Equation (4) for every leaf."""
        decay, t = _decay_of(self.decays, parameters, self.decay), state.step + 1

        def stepped(x: Array, g: Array, m: Array, v: Array, by: float) -> tuple[Array, ...]:
            return adamw(x, g, m, v, t, rate, self.betas, self.eps, by)

        parts = _together(stepped, parameters, gradients, state.mean, state.square, decay)
        return _part(0, parts, parameters), AdamState(t, _part(1, parts, parameters), _part(2, parts, parameters))

    def described(self, parameters: Tree) -> dict[str, Any]:
        """The constants, and the names of the parameters that decay."""
        return _described(self, parameters) | {"betas": list(self.betas)}


def global_norm(tree: Tree) -> Array:  # tree -> ()
    """‖g‖ = √(Σ over all leaves and entries of g²), a number on the arrays' device."""
    parts = leaves(tree)
    xp, total = namespace(*parts), exact(0, parts[0])
    for leaf in parts:
        total = total + xp.sum(leaf * leaf)
    return xp.sqrt(total) if hasattr(total, "dtype") else total.sqrt()


def clipped(gradients: Tree, limit: float, *, eps: float = 0.0) -> tuple[Tree, Array]:
    """g · c/max(‖g‖ + ε, c): gradients whose norm over all leaves together is at most c, to rounding, and ‖g‖ as it was.

    Parameters
    ----------
    gradients : tree of arrays
    limit : c > 0; infinity clips nothing
    eps : added to the norm, at least 0; 0 makes the norm of what was longer c. PyTorch's clip_grad_norm_ has 1e-6

    Returns
    -------
    tree, and the norm before. Where it overflows, or an entry is not finite, it is not finite either, and the gradients mean nothing

    Raises
    ------
    ConfigError, ShapeError
        if the limit is not positive, `eps` is negative or not finite, or there are no gradients.
    """
    if not limit > 0:
        raise ConfigError("gradients cannot be clipped to that", where="clipped(limit)", expected="> 0", got=limit)
    if not 0 <= eps < math.inf:
        raise ConfigError("a norm grows by what is added to it", where="clipped(eps)", expected="0 or more", got=eps)
    if not leaves(gradients):
        raise ShapeError("there is nothing to clip", where="clipped(gradients)", expected="at least one array", got=0)
    norm = global_norm(gradients)
    above = norm + exact(eps, leaves(gradients)[0])
    scale = _clipping(above, exact(limit, leaves(gradients)[0]))
    return mapped(lambda g: g * scale, gradients), norm


def _clipping(above: Any, c: Any) -> Any:  # () -> ()
    """c/above where above > c, else 1: no quotient of infinities. On a ball that meets c an enclosure of both."""
    if not hasattr(above, "dtype"):
        return c / above.max(c) if c.is_finite() else c.__class__(1)
    xp, one = namespace(above), namespace(above).ones_like(above)
    return xp.where(above > c, c * one, one) / xp.where(above > c, above, one)
