"""The parameters that all transformers here are made of: linear maps, norms, and the six of a layer.

    y = x W + b

One block serves pre-LN and post-LN layers alike (`refimpl.blocks`): they have the same parameters and differ in where the norms are applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError
from refimpl.gradients import Pullback, products_summed, summed_to, vjp_of
from refimpl.number_system import Array, is_ball, namespace, products_of, rounded_once, whole_number

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = [
    "Block",
    "Linear",
    "Norm",
    "affine",
    "affine_vjp",
    "check_weights",
    "is_positive",
    "product",
    "product_vjp",
]


REMEDY = (
    "check that config.json belongs to these weights (n_layer, n_embd, n_positions, vocab_size, n_inner, tied head)"
)


class Linear(NamedTuple):
    """x @ weight + bias, with weight (in, out) and bias (out,)."""

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:  # (..., in) -> (..., out)
        """x @ weight + bias."""
        return affine(x, self.weight, self.bias)

    @classmethod
    def from_named(cls, arrays: Mapping[str, Array], prefix: str) -> Linear:
        """The arrays called prefix + "weight" and "bias"."""
        return cls(arrays[f"{prefix}weight"], arrays[f"{prefix}bias"])


@rounded_once
@products_of("head")
def product(x: Array, y: Array) -> Array:  # (..., n, k), (k, m) -> (..., n, m)
    """Z_ij = Σ_k x_ik y_kj: a head's scores, its products are of the kind "head"."""
    return namespace(x, y).matmul(x, y)


@rounded_once
@products_of("projection")
def affine(x: Array, weight: Array, bias: Array) -> Array:  # (..., in), (in, out), (out,) -> (..., out)
    """y = x W + b, for every row x: what a `Linear` does."""
    return namespace(x, weight).matmul(x, weight) + bias


class Norm(NamedTuple):
    """The scale and bias of a layer norm, both (width,)."""

    scale: Array
    bias: Array

    @classmethod
    def from_named(cls, arrays: Mapping[str, Array], prefix: str) -> Norm:
        """The arrays called prefix + "scale" and "bias"."""
        return cls(arrays[f"{prefix}scale"], arrays[f"{prefix}bias"])


class Block(NamedTuple):
    """One layer's parameters, in the order in which the layer uses them."""

    attention_norm: Norm
    query_key_value: Linear  # (d, 3d): the columns are Q, then K, then V, each with the heads side by side
    attention_output: Linear  # (d, d)
    feed_forward_norm: Norm
    feed_forward_in: Linear  # (d, inner)
    feed_forward_out: Linear  # (inner, d)

    @staticmethod
    def shapes(d: int, inner: int) -> dict[str, tuple[int, ...]]:
        """Every parameter's dotted name and shape, for instance "attention_norm.scale": (768,)."""
        return {
            "attention_norm.scale": (d,),
            "attention_norm.bias": (d,),
            "query_key_value.weight": (d, 3 * d),
            "query_key_value.bias": (3 * d,),
            "attention_output.weight": (d, d),
            "attention_output.bias": (d,),
            "feed_forward_norm.scale": (d,),
            "feed_forward_norm.bias": (d,),
            "feed_forward_in.weight": (d, inner),
            "feed_forward_in.bias": (inner,),
            "feed_forward_out.weight": (inner, d),
            "feed_forward_out.bias": (d,),
        }

    @classmethod
    def from_named(cls, arrays: Mapping[str, Array], prefix: str) -> Block:
        """The arrays called prefix + the names of `shapes`, in their places."""
        kinds: dict[str, Any] = {name: Norm if name.endswith("norm") else Linear for name in cls._fields}
        return cls(*(kind.from_named(arrays, f"{prefix}{name}.") for name, kind in kinds.items()))

    def named(self, prefix: str) -> dict[str, Array]:
        """The arrays by their dotted names: the inverse of `from_named`."""
        return {
            f"{prefix}{name}.{field}": a for name, part in self._asdict().items() for field, a in part._asdict().items()
        }


def is_positive(size: object) -> bool:
    """Whether a size is a whole number above 0."""
    whole = whole_number(size)
    return whole is not None and whole > 0


def _is_finite(array: Array) -> bool:
    if is_ball(array):
        return all(ball.is_finite() for ball in array.ravel())
    xp = namespace(array)
    wide = xp.astype(array, xp.float32) if str(array.dtype) == "bfloat16" else array
    return bool(xp.all(xp.isfinite(wide)))


def check_weights(
    arrays: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    source: Mapping[str, str],
    finite: Container[str] = (),
    remedy: str = REMEDY,
) -> None:
    """Raise ConfigError that lists all missing, extra, misshaped and non-finite arrays; `source` is what a file called each.

    Arrays whose names are in `finite` were found to be so when they were made, and are not looked at again.
    """

    def called(name: str) -> str:
        return f"{source[name]} ({name})" if name in source else name

    found = {name: tuple(array.shape) for name, array in arrays.items()}
    right = [name for name in shapes if found.get(name) == shapes[name]]
    problems = [f"missing: {called(name)} {shapes[name]}" for name in shapes if name not in found]
    problems += [f"unexpected: {called(name)} {shape}" for name, shape in found.items() if name not in shapes]
    problems += [
        f"wrong shape: {called(name)} expected {shapes[name]}, got {shape}"
        for name, shape in found.items()
        if name in shapes and name not in right
    ]
    kinds = sorted({str(array.dtype) for name, array in arrays.items() if name in shapes})
    problems += [f"mixed dtypes: {', '.join(kinds)}"] if len(kinds) > 1 else []
    problems += [
        f"not finite: {called(name)} holds NaN or infinity"
        for name in right
        if name not in finite and not _is_finite(arrays[name])
    ]
    if problems:
        raise ConfigError(
            f"the weights do not fit the configuration ({len(problems)} problems)",
            got="\n    ".join(["", *problems]),
            remedy=remedy,
        )


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(affine, "x", "weight", "bias")
def affine_vjp(
    x: Array, weight: Array, bias: Array
) -> tuple[Array, Pullback]:  # (..., in), (in, out), (out,) -> (..., out), pullback
    """x̄ = ȳ Wᵀ, W̄ = Σ xᵀ ȳ, b̄ = Σ ȳ, over the rows. Arguments as `affine`."""

    def pullback(y_bar: Array) -> tuple[Array, Array, Array]:  # (..., out) -> (..., in), (in, out), (out,)
        xp = namespace(x, weight)
        x_bar = xp.matmul(y_bar, xp.matrix_transpose(weight))
        return x_bar, products_summed(x, y_bar), summed_to(y_bar, bias.shape)

    return affine(x, weight, bias), pullback


@vjp_of(product, "x", "y")
def product_vjp(x: Array, y: Array) -> tuple[Array, Pullback]:  # (..., n, k), (k, m) -> (..., n, m), pullback
    """x̄ = z̄ yᵀ, ȳ = Σ xᵀ z̄ over the rows. Arguments as `product`."""

    def pullback(z_bar: Array) -> tuple[Array, Array]:  # (..., n, m) -> (..., n, k), (k, m)
        xp = namespace(x, y)
        return xp.matmul(z_bar, xp.matrix_transpose(y)), products_summed(x, z_bar)

    return product(x, y), pullback
