"""ONNX Runtime on the processor: a model of one node for each operator, its graph optimizations left on as they are by default."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from validation import tolerance
from validation.targets.trial import ALL, NoSuchCallError, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["trials"]

_TYPES = {
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_OPSET = 23
_OWN = "com.microsoft"


@functools.cache
def _session(op: str, domain: str, opset: int, inputs: tuple[tuple[str, int, int], ...], attributes: Any) -> Any:
    """A model of one node; `inputs` has the name, element type and rank of each, "" for one that is left out."""
    nodes = [helper.make_node(op, [name for name, _, _ in inputs], ["y"], domain=domain, **dict(attributes))]
    short, given, answer = TensorProto.BFLOAT16, inputs, "y"
    if inputs[0][1] == short:  # does not pass through its Python interface: as float32, converted in the graph
        given = tuple((f"{n}_wide", TensorProto.FLOAT, r) if kind == short else (n, kind, r) for n, kind, r in inputs)
        pairs = [(wide[0], name[0]) for wide, name in zip(given, inputs, strict=True) if wide != name]
        nodes = [helper.make_node("Cast", [wide], [name], to=short) for wide, name in pairs] + nodes
        nodes.append(helper.make_node("Cast", ["y"], [answer := "y_wide"], to=TensorProto.FLOAT))
    shapes = [
        helper.make_tensor_value_info(name, kind, [f"{name}{axis}" for axis in range(rank)])
        for name, kind, rank in given
        if name
    ]
    graph = helper.make_graph(nodes, op, shapes, [helper.make_tensor_value_info(answer, given[0][1], None)])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(_OWN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(op: str, *arrays: Any, domain: str = "", opset: int = _OPSET, **attributes: Any) -> Any:
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(arrays)]
    kinds = [(n, _TYPES[a.dtype], a.ndim) if n else ("", 0, 0) for n, a in zip(names, arrays, strict=True)]
    session = _session(op, domain, opset, tuple(kinds), tuple(attributes.items()))
    given = {
        f"{name}_wide" if a.dtype == _BFLOAT16 else name: np.ascontiguousarray(
            a.astype(np.float32) if a.dtype == _BFLOAT16 else a
        )
        for name, a in zip(names, arrays, strict=True)
        if name
    }
    answer = session.run(None, given)[0]
    return answer.astype(_BFLOAT16) if arrays[0].dtype == _BFLOAT16 else answer


def _logsumexp(x: Any) -> Any:
    return _run("ReduceLogSumExp", x, np.array([-1]), keepdims=0)


def _gelu(x: Any, approximate: str) -> Any:
    return _run("Gelu", x, approximate=approximate)


def _own_gelu(x: Any, approximate: str, *, op: str, form: str) -> Any:
    if approximate != form:
        raise NoSuchCallError(f"{op} is one function")
    return _run(op, x, domain=_OWN)


def _layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    return _run("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)


def _own_layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    """With a zero that is added first, as graphs of transformers are fused."""
    x = x[None]
    return _run("SkipLayerNormalization", x, np.zeros_like(x), scale, bias, domain=_OWN, epsilon=eps)[0]


def _attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    seen = None if mask is None else np.ascontiguousarray(np.broadcast_to(mask, (*q.shape[:-1], k.shape[-2])))
    return _run("Attention", q, k, v, seen) if seen is not None else _run("Attention", q, k, v)


def _residual(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    if mean_over != 1:
        raise NoSuchCallError("what is added to scores is not averaged with them")
    added = previous_scores if mask is None else np.where(mask, previous_scores, previous_scores.dtype.type(-np.inf))
    return _run("Attention", q, k, v, added)


def _has_kernel(function: Callable[..., Any], component: str, dtype: str) -> bool:
    """Whether the runtime computes the smallest call in that dtype."""
    x = np.ones((1, 1, 2, 2), tolerance.DTYPES[dtype])
    calls: dict[str, list[tuple[Any, ...]]] = {
        "gelu": [(x[0, 0, 0], form) for form in ("none", "tanh")],
        "layer_norm": [(x[0, 0], x[0, 0, 0], x[0, 0, 0], 1e-5)],
        "attention": [(x, x, x, None)],
        "residual_attention": [(x, x, x, x, None, 1)],
    }
    try:
        for call in calls.get(component, [(x[0, 0],)]):
            with contextlib.suppress(NoSuchCallError):
                function(*call)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error) and "INVALID_GRAPH" not in str(error):
            raise
        return False
    return True


def trials() -> list[Trial]:
    """What is checked of ONNX Runtime, in the dtypes that it has kernels for."""
    found: dict[str, tuple[str, Callable[..., Any]]] = {
        "Softmax": ("softmax", lambda x: _run("Softmax", x, axis=-1)),
        "LogSoftmax": ("log_softmax", lambda x: _run("LogSoftmax", x, axis=-1)),
        "ReduceLogSumExp": ("logsumexp", _logsumexp),
        "Gelu": ("gelu", _gelu),
        f"{_OWN}.Gelu": ("gelu", functools.partial(_own_gelu, op="Gelu", form="none")),
        f"{_OWN}.FastGelu": ("gelu", functools.partial(_own_gelu, op="FastGelu", form="tanh")),
        f"{_OWN}.QuickGelu": ("gelu", functools.partial(_own_gelu, op="QuickGelu", form="tanh")),
        "LayerNormalization": ("layer_norm", _layer_norm),
        f"{_OWN}.SkipLayerNormalization": ("layer_norm", _own_layer_norm),
        "Attention": ("attention", _attention),
        "Attention, previous scores added": ("residual_attention", _residual),
    }
    return [
        Trial(name, component, function, dtypes)
        for name, (component, function) in found.items()
        if (dtypes := tuple(dtype for dtype in ALL if _has_kernel(function, component, dtype)))
    ]
