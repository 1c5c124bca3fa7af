"""The package as a whole: what importing it imports, what is public, what definitions may not touch, how long functions are."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import refimpl
import weights_io

ROOT = Path(refimpl.__file__).parent.parent
FORBIDDEN = (
    *("torch", "tensorflow", "jax", "transformers", "keras", "mpi4py"),  # frameworks
    *("typer", "rich", "click"),  # the command line
    *(
        "cupy",
        "opencc",
        "flint",
        "scipy.special",
        "ml_dtypes",
        "tokenizers",
        "sentencepiece",
        "jieba",
        "mpmath",
        "array_api_strict",
        "matplotlib",
    ),
)
# every module in which arrays of any library are computed with
DEFINITIONS = (
    "taylor",
    "softmax",
    "activation",
    "linear_attention",
    "normalization",
    "attention",
    "favor",
    "special",
    "parameters",
    "inputs",
    "positions",
    "pooling",
    "blocks",
    "bert",
    "gpt2",
    "parallel",
    "parallel_decoder",
    "decoding",
    "copying",
    "convolution",
    "number_system",
    "bits",
    "mitchell",
    "mitchell_gradients",
    "mitchell_patterns",
    "arithmetic",
    "gradients",
    "trees",
    "mlp",
    "path_kernel",
    "explaining",
    "learning/optimizers",
    "learning/ema",
    "learning/losses",
    "spaces/seq2seq",
    "spaces/extractor",
)


def _imported_by(statement: str) -> set[str]:
    """Which forbidden modules are loaded after `statement` in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*[name for name in {FORBIDDEN!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_refimpl_imports_nothing_heavy() -> None:
    assert _imported_by("import refimpl") == set()


def test_that_check_can_fail() -> None:
    assert _imported_by("import refimpl, flint, scipy.special") == {"flint", "scipy.special"}
    assert "ml_dtypes" in _imported_by("import weights_io.safetensors")


def _modules(package: Any) -> list[Any]:
    found = [package]
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            found.append(importlib.import_module(info.name))
    return found


MODULES = [module for package in (refimpl, weights_io) for module in _modules(package)]
every_module = pytest.mark.parametrize("module", MODULES, ids=[module.__name__ for module in MODULES])


def _undocumented(module: Any) -> list[str]:
    """Names in __all__ that do not exist, or are functions, classes or public methods without a docstring."""
    missing = []
    for name in module.__all__:
        thing = getattr(module, name, None)
        if thing is None:
            missing.append(name)
        elif inspect.isfunction(thing) or inspect.isclass(thing):
            if not (thing.__doc__ or "").strip():
                missing.append(name)
            if inspect.isclass(thing):
                methods = {n: m for n, m in vars(thing).items() if not n.startswith("_")}
                plain = {n: getattr(m, "__func__", m) for n, m in methods.items()}
                missing += [
                    f"{name}.{n}"
                    for n, m in plain.items()
                    if (inspect.isfunction(m) or isinstance(m, property)) and not (m.__doc__ or "").strip()
                ]
    return missing


def _unlisted(module: Any) -> list[str]:
    """Public functions and classes that the module defines and does not list."""
    defined = {
        name
        for name, thing in vars(module).items()
        if (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    }
    return sorted(defined - set(module.__all__))


@every_module
def test_every_public_name_exists_and_is_documented(module: Any) -> None:
    assert module.__doc__
    assert module.__doc__.strip()
    assert _undocumented(module) == []


@every_module
def test_every_public_definition_is_listed(module: Any) -> None:
    if module.__name__ in (
        "refimpl.cli",
        "refimpl.explain_cli",
        "refimpl.fewshot_cli",
        "refimpl.vectors_cli",
        "refimpl.weights_cli",
    ):
        pytest.skip("its functions are commands of a program, not names to import")
    assert len(set(module.__all__)) == len(module.__all__)
    assert _unlisted(module) == []


def test_those_checks_can_fail(tmp_path: Path) -> None:
    source = '"""Planted."""\n__all__ = ["a", "missing"]\ndef a(): pass\ndef b():\n    """b."""\nclass _C: pass\n'
    (tmp_path / "planted_module.py").write_text(source)
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("planted_module")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("planted_module", None)
    assert _undocumented(module) == ["a", "missing"]
    assert _unlisted(module) == ["b"]


def test_the_public_names_of_the_design_are_there() -> None:
    names = """
        backend.get backend.Backend backend.diagnose taylor.exp_taylor taylor.taylor_softmax softmax.softmax
        softmax.log_softmax softmax.logsumexp activation.gelu activation.relu activation.sigmoid activation.tanh
        normalization.layer_norm attention.scaled_dot_product_attention attention.causal_mask attention.unilm_mask gpt2.GPT2Config
        gpt2.GPT2Weights gpt2.logits gpt2.dialects load Model positions.hierarchical_bases positions.hierarchical_positions
        bert.BertConfig bert.BertWeights bert.encode bert.masked_lm_logits bert.dialects
        path_kernel.tangent_kernel path_kernel.path_kernel path_kernel.reconstruct
    """
    for name in names.split():
        thing: Any = refimpl
        for part in name.split("."):
            thing = getattr(thing, part)
    for name in ("open", "save", "Checkpoint", "WeightsError", "FormatError", "UnsupportedError"):
        assert hasattr(weights_io, name)
    for name in ("logits", "encode", "generate", "score", "stream"):
        assert callable(getattr(refimpl.Model, name))


# --- definitions touch no array library ---------------------------------------------------------------------------------------

LIBRARIES = {"np", "numpy", "cp", "cupy", "torch", "jnp", "strict", "array_api_strict"}


def _array_library_uses(source: str) -> list[int]:
    """Lines that use an attribute of an array library, or import one."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [node.value.id]
        elif isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
        lines += [node.lineno for name in names if name in LIBRARIES]
    return sorted(set(lines))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definitions_use_no_array_library_by_name(name: str) -> None:
    assert _array_library_uses((ROOT / "refimpl" / f"{name}.py").read_text()) == []


@pytest.mark.parametrize(
    "planted", ["np.exp(x)", "import numpy as other", "from numpy import exp", "y = numpy.linalg.norm(x)", "cp.sum(x)"]
)
def test_that_lint_can_fail(planted: str) -> None:
    source = (ROOT / "refimpl" / "softmax.py").read_text()
    assert _array_library_uses(source + planted + "\n") == [source.count("\n") + 1]


def test_every_module_of_the_engine_is_linted_or_is_no_definition() -> None:
    """A new module has to be put in one list or the other."""
    no_definitions = {
        "__init__",
        "backend",
        "errors",
        "files",
        "model",
        "cli",
        "console",
        "explain_cli",
        "fewshot_cli",
        "summarize_cli",
        "vectors_cli",
        "weights_cli",
        "train_cli",
        "__main__",
    }
    no_definitions |= {
        "parallel_communicators",
        "parallel_model",
        "parallel_job",
        "parallel_plan",
        "scheduler",
    }  # of processes, files, and arithmetic
    no_definitions |= {"comparison", "comparison_plot"}  # of logits, on the host
    no_definitions |= {"fewshot", "fewshot_classify", "fewshot_scores"}  # of texts, on the host
    no_definitions |= {"complex_step"}  # a number system, NumPy's alone
    no_definitions |= {"encoder", "projections", "sentence_transformers"}  # the second are drawn on the host
    no_definitions |= {
        f"learning/{name}"
        for name in (
            "__init__",
            "schedules",
            "data",
            "checkpoints",
            "training",
            "models",
            "session",
            "passes",
            "unilm_session",
            "folders",
            "seq2seq",
            "extractor",
        )
    }  # on the host
    no_definitions |= {"spaces/__init__", "spaces/extractor_file", "spaces/published", "spaces/seq2seq_folder"}
    no_definitions |= {"spaces/labels", "spaces/words"}  # of texts, on the host
    no_definitions |= {
        f"spaces/{name}"
        for name in (
            "assembling",
            "crossfit",
            "data",
            "documents",
            "finetuning",
            "folder",
            "journal",
            "labelling",
            "report",
            "resuming",
            "running",
            "showing",
            "summarizer",
            "summary",
            "vectors",
        )
    }  # of texts, files, processes and trainings, on the host
    engine = ROOT / "refimpl"
    files = [path for folder in (engine, engine / "learning", engine / "spaces") for path in folder.glob("*.py")]
    found = {path.relative_to(engine).with_suffix("").as_posix() for path in files}
    assert found - no_definitions == set(DEFINITIONS)


# --- length of functions --------------------------------------------------------------------------------------------------------


def _lengths(source: str) -> list[int]:
    """Lines of every function without its docstring, decorators, and blank lines; of a nested function's, its own too."""
    lengths = []
    text = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        first = node.body[0]
        if ast.get_docstring(node) is not None:
            lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        lengths.append(sum(bool(text[line - 1].strip()) for line in lines))
    return lengths


def test_functions_are_short() -> None:
    """Median at most 10 lines, 90th percentile at most 25."""
    files = [path for package in ("refimpl", "weights_io") for path in sorted((ROOT / package).rglob("*.py"))]
    lengths = [length for path in files for length in _lengths(path.read_text())]
    median, ninetieth = statistics.median(lengths), statistics.quantiles(lengths, n=10)[-1]
    said = f"{len(lengths)} functions: median {median}, 90th percentile {ninetieth}, longest {max(lengths)} lines"
    assert len(lengths) > 100, said
    assert median <= 10, said
    assert ninetieth <= 25, said


def test_lengths_are_counted_right() -> None:
    source = '''
        @decorated
        def f(x):
            """Two
            lines."""
            y = x

            return y

        def g(): return 1
    '''
    assert _lengths(textwrap.dedent(source)) == [3, 1]
