"""How rounding errors grow through a network: every layer's float32 state against the enclosure of the exact one, and against the sampled budget.

The parameters are float32 numbers and are taken as exact. Three runs of one source are compared: on balls, which enclose every state; in float32,
whose distance from the enclosure is the error; and in perturbed arithmetic (`validation.perturbed`), whose deviation says what float32 may
cost at each element. A layer's multiple is the largest error, element by element, as a part of its budget.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import refimpl
from refimpl import bert, gpt2
from validation import components, perturbed, tolerance, truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from refimpl.backend import Backend

__all__ = ["NETWORKS", "Growth", "Layer", "measure", "of_checks"]

DTYPE = "float32"
TARGET = 2.0**-50  # radius of the enclosures, absolute or relative: far below a float32's last bit


@dataclass(frozen=True)
class Layer:
    """One state of a network, with its largest error and its largest budget; `multiple` is the largest of their ratios at one place."""

    name: str
    largest: float  # magnitude in the state
    error: float
    budget: float
    multiple: float
    radius: float  # the widest ball: how well the truth is known


@dataclass(frozen=True)
class Growth:
    """A network on one text, layer after layer."""

    network: str
    description: str
    dtype: str
    tokens: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Network:
    """A model's parameters by name (float32), and its states, all of one shape, as a function of such parameters in any number system."""

    description: str
    tokens: int
    layers: tuple[str, ...]
    arrays: dict[str, Any]
    states: Callable[[dict[str, Any]], list[Any]]


def _gpt2(description: str, config: gpt2.GPT2Config, arrays: dict[str, Any], ids: Any) -> Network:
    """The states of a GPT-2; only the rows of the token table that the text uses are kept."""
    used, renumbered = np.unique(ids, return_inverse=True)
    config = dataclasses.replace(config, vocab_size=len(used), tie_word_embeddings=True)
    kept = {name: a for name, a in arrays.items() if name != "output_embedding"}
    kept["token_embedding"] = arrays["token_embedding"][used]

    def states(weights: dict[str, Any]) -> list[Any]:
        given = gpt2.GPT2Weights.from_named(weights, config)
        return gpt2.hidden_states(given, config, renumbered.reshape(ids.shape).tolist())

    layers = ("embedding", *(f"block {i}" for i in range(1, config.n_layer + 1)), "final norm")
    return Network(description, ids.size, layers, kept, states)


def _tiny() -> Network:
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, 8))
    return _gpt2(f"A recorded GPT-2, {config.n_layer} layers of width {config.n_embd}", config, arrays, ids)


def _tang() -> Network:
    model = refimpl.load("tang", backend="numpy", dtype=DTYPE)
    ids = np.array([model.prompt_ids("春眠不觉晓，")])[:, :3]
    description = f"The embedded model, {model.config.n_layer} layers of width {model.config.n_embd}"
    return _gpt2(description, model.config, model.weights.named(), ids)


def _bert() -> Network:
    model: Any = refimpl.load(components.RECORDED / "hugging_face_bert" / "model", backend="numpy", dtype=DTYPE)
    config, ids = model.config, np.random.default_rng(0).integers(1, model.config.vocab_size, (1, 8))

    def states(weights: dict[str, Any]) -> list[Any]:
        return bert.hidden_states(bert.BertWeights.from_named(weights, config), config, ids.tolist())

    layers = ("embedding", *(f"layer {i}" for i in range(1, config.num_hidden_layers + 1)))
    description = f"A recorded BERT, {config.num_hidden_layers} layers of width {config.hidden_size}"
    return Network(description, ids.size, layers, model.weights.named(), states)


# a network by the check of `refimpl validate` that runs it: its growth belongs into reports of runs that have the check
NETWORKS: dict[str, tuple[str, Callable[[], Network]]] = {
    "SYSTEMS.gpt2_tiny": ("gpt2_tiny", _tiny),
    "SYSTEMS.gpt2_tang": ("gpt2_tang", _tang),
    "PARITY.transformers_bert": ("bert_tiny", _bert),
}


def measure(name: str, network: Network, backend: Backend) -> Growth:
    """Every state of `network` in float32 on `backend`, judged against its enclosure and the sampled budget."""

    def enclosed() -> Any:
        return np.stack(network.states({key: truth.balls(a) for key, a in network.arrays.items()}))

    known = truth.enclose(enclosed, target=TARGET)
    budget = _budget(network) * tolerance.roundoff(DTYPE)
    states = network.states({key: backend.asarray(a) for key, a in network.arrays.items()})
    rows = zip(network.layers, map(backend.to_numpy, states), known, budget, strict=True)
    return Growth(name, network.description, DTYPE, network.tokens, tuple(_layer(*row) for row in rows))


def _budget(network: Network) -> Any:  # -> float64 (states, batch, n, d)
    """The sampled budget of all states together, as a multiple of the unit roundoff."""
    doubles = {key: np.asarray(a, np.float64) for key, a in network.arrays.items()}

    def run(wrap: Callable[[Any], Any]) -> Any:
        return wrap(np.stack([s.array for s in network.states({key: wrap(a) for key, a in doubles.items()})]))

    deviation = perturbed.sampled_deviation(run, roundoff=1.0)
    return perturbed.sigmas(deviation.size) * deviation


def _layer(name: str, state: Any, known: Any, budget: Any) -> Layer:
    verdict = tolerance.judge(state, known, budget, DTYPE, word="within sample")
    largest, error = float(np.max(np.abs(truth.midpoints(known)))), truth.upper_distance(known, state)
    allowed = float(np.max(budget)) + tolerance.roundoff(DTYPE) * largest
    return Layer(name, largest, float(np.max(error)), allowed, verdict.multiple, float(np.max(truth.radii(known))))


def of_checks(ids: Iterable[str], backend: Backend) -> Sequence[Growth]:
    """The growth through every network that one of these checks ran."""
    ran = set(ids)
    return [measure(name, make(), backend) for check, (name, make) in NETWORKS.items() if check in ran]
