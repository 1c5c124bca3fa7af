"""Random projections for random features: drawn on the host from a NumPy Generator, as float64, and moved by the caller.

    w_i = r_i e_i:  e_i independent and uniform, or rows of Haar-distributed orthogonal matrices, or corners of rotated simplices;
    r_i chi-distributed with d degrees of freedom, so that every w_i ~ N(0, I_d), or √d

References: K. Choromanski et al., "Rethinking attention with Performers", arXiv 2009.14794, section 2.4; I. Reid et al., "Simplex random features",
arXiv 2301.13856; F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54 (2007), for the sign
correction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from refimpl.errors import ConfigError
from refimpl.number_system import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.number_system import Array

__all__ = ["gaussian", "orthogonal_gaussian", "redraw", "simplex_gaussian"]


def _check_size(n_features: int, width: int) -> None:
    for name, value in (("n_features", n_features), ("width", width)):
        whole = whole_number(value)
        if whole is None or whole < 1:
            raise ConfigError(
                f"{name} must be a whole number", where="projection", expected=f"{name} >= 1", got=repr(value)
            )


def _rotations(rng: np.random.Generator, n_features: int, width: int) -> Any:  # -> (blocks, width, width)
    """Independent Haar-distributed orthogonal matrices, enough for `n_features` rows: Q of QR, each column times the sign of R's diagonal."""
    q, r = np.linalg.qr(rng.standard_normal((-(-n_features // width), width, width)))
    return q * np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[:, None, :]


def _with_norms(rng: np.random.Generator, directions: Any, n_features: int, norms: str) -> Any:
    """The first `n_features` rows of unit length, each times a chi-distributed norm or times √width."""
    rows = directions.reshape(-1, directions.shape[-1])[:n_features]
    if norms == "chi":
        return rows * np.sqrt(rng.chisquare(rows.shape[1], (n_features, 1)))
    if norms == "sqrt":
        return rows * np.sqrt(rows.shape[1])
    raise ConfigError("unknown norms of a projection", where="norms", expected='"chi" or "sqrt"', got=repr(norms))


def gaussian(rng: np.random.Generator, n_features: int, width: int) -> Any:  # -> float64 (m, d)
    """W_ij ~ N(0, 1), all independent.

    Parameters
    ----------
    rng : the generator that is drawn from
    n_features, width : int >= 1, m and d

    Raises
    ------
    ConfigError
        if a size is not a whole number >= 1.
    """
    _check_size(n_features, width)
    return rng.standard_normal((n_features, width))


def orthogonal_gaussian(
    rng: np.random.Generator, n_features: int, width: int, norms: Literal["chi", "sqrt"] = "chi"
) -> Any:  # -> float64 (m, d)
    """w_i = r_i e_i: blocks of `width` orthogonal directions e_i, each block Haar distributed, blocks independent.

    With chi-distributed norms r_i every row is N(0, I_d), so the features stay unbiased; r_i = √d has the same mean square, and a bias.

    Parameters
    ----------
    rng : the generator that is drawn from
    n_features, width : int >= 1, m and d; the last block is cut to fit
    norms : "chi" or "sqrt"

    Raises
    ------
    ConfigError
        if a size is not a whole number >= 1, or `norms` is neither name.
    """
    _check_size(n_features, width)
    return _with_norms(rng, _rotations(rng, n_features, width), n_features, norms)


def simplex_gaussian(rng: np.random.Generator, n_features: int, width: int) -> Any:  # -> float64 (m, d)
    """w_i = r_i s_i: blocks of `width` unit vectors with s_i·s_j = -1/(d-1), each rotated by a Haar matrix, norms chi-distributed.

    Parameters and errors as `gaussian`. Every row is N(0, I_d). Where d = 1 a block has one row.
    """
    _check_size(n_features, width)
    if width == 1:
        return gaussian(rng, n_features, 1)
    corners = (np.eye(width) - 1 / width) * np.sqrt(width / (width - 1))
    return _with_norms(rng, corners @ _rotations(rng, n_features, width), n_features, "chi")


def redraw(
    rng: np.random.Generator, projection: Array, draw: Callable[..., Any] = orthogonal_gaussian
) -> Any:  # (m, d) -> float64 (m, d)
    """A new projection of the same shape, from the same generator as the one before: draw(rng, m, d).

    The caller moves it as the first one was moved; nothing is drawn behind anybody's back. Errors as `draw`.
    """
    return draw(rng, *projection.shape)
