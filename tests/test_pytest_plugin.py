"""The plugin for pytest, in runs of its own: the fixture, the mark, the summary, and that it disturbs nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import refimpl_pytest
import validation
from validation import conformance, diagnosis, search, strategies, vectors  # noqa: F401 (a run in this process forgets what it imports)

pytest_plugins = ["pytester"]
ROOT = Path(validation.__file__).parent.parent
FUNCTIONS = """
    import numpy as np
    import pytest

    def right(x):
        wide = x.astype(np.float64)
        e = np.exp(wide - wide.max(-1, keepdims=True))
        return (e / e.sum(-1, keepdims=True)).astype(x.dtype)

    def wrong(x):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """run(source, *options, apart=False): pytest on that file, warnings as errors, this plugin by its module; `apart`: in a new process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    head = "import textwrap\n"

    def started(source: str, *options: str, plugin: bool = True, apart: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_it=head + _plain(FUNCTIONS) + _plain(source))
        loaded = ("-p", "no:refimpl", *(("-p", "refimpl_pytest") if plugin else ()))
        strict = ("--strict-markers", "-W", "error", "-p", "no:cacheprovider")
        if apart:
            return pytester.runpytest_subprocess(*loaded, *strict, *options)
        here = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # the plugin is imported already
        return pytester.runpytest_inprocess(*loaded, *strict, *here, *options)

    return started


def _plain(source: str) -> str:
    import textwrap

    return textwrap.dedent(source)


def _properties(path: Path) -> list[dict[str, Any]]:
    found = ElementTree.parse(path).getroot().iter("property")
    return [json.loads(each.get("value") or "") for each in found if each.get("name") == "conforms"]


# --- it costs nothing and disturbs nobody -----------------------------------------------------------------------------------------


def _imported_by(statement: str) -> set[str]:
    heavy = ("numpy", "flint", "refimpl", "weights_io", "hypothesis", "scipy", "ml_dtypes", "validation.conformance")
    code = f"import sys\n{statement}\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    assert _imported_by("import refimpl_pytest") == set()
    assert {"numpy", "flint", "refimpl"} <= _imported_by("from validation import check")  # so the test above can fail


def test_the_entry_point_is_this_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"refimpl": "refimpl_pytest"}
    assert any(each.startswith("hypothesis") for each in project["optional-dependencies"]["validation"])


def test_a_project_with_a_package_of_the_same_name_as_ours_is_left_alone(run: Any, pytester: pytest.Pytester) -> None:
    """`validation` is a name that others use: their tests import theirs, whether or not they have a conftest."""
    pytester.mkpydir("validation").joinpath("rules.py").write_text("RULE = 7\n")
    pytester.makeconftest("import validation.rules\n")
    pytester.makeini("[pytest]\npythonpath = .\n")
    result = run("def test_theirs():\n    from validation.rules import RULE\n    assert RULE == 7\n", apart=True)
    result.assert_outcomes(passed=1)


def test_a_suite_that_uses_nothing_of_it_imports_nothing_and_sees_nothing(run: Any) -> None:
    source = """
        import sys

        def test_nothing_is_loaded():
            assert not {"flint", "refimpl", "hypothesis.core"} & set(sys.modules)

        class Own:
            pass

        @pytest.fixture
        def conforms():
            return Own()

        def test_an_own_fixture_of_that_name(conforms):
            assert isinstance(conforms, Own)
    """
    result = run(source, "-p", "no:hypothesispytest", apart=True)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*conformance*")


def test_it_can_be_left_out(run: Any) -> None:
    result = run("def test_it(conforms): pass", plugin=False)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'conforms' not found*")


# --- the fixture --------------------------------------------------------------------------------------------------------------


def test_the_fixture_raises_the_report_and_records_it(run: Any, pytester: pytest.Pytester) -> None:
    source = """
        def test_right(conforms):
            conforms(right, "softmax", dtype=["float32", "float16"], search=20)

        def test_new_inputs(conforms):
            conforms(right, "softmax", seed=3)

        def test_wrong(conforms):
            conforms(wrong, "softmax")

        def test_search(conforms):
            conforms.search(wrong, "softmax")
    """
    result = run(source, "--junit-xml=out.xml")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*softmax, float32: DOES NOT CONFORM*", "*softmax-9 apart*non-finite*"])
    result.stdout.fnmatch_lines(["*a search found a failing call (*calls answered*", "*x = np.array(*float32)"])
    result.stdout.fnmatch_lines(
        [
            "*= conformance =*",
            "softmax, float32: * cases, * FAILED, worst inf of the tolerance (softmax-*), * calls searched, A FAILING ONE*",
            "softmax, float16: * cases, worst 0.* of the tolerance (softmax-*), 20 calls searched",
        ]
    )
    found = _properties(pytester.path / "out.xml")
    assert [each["passed"] for each in found] == [True, True, True, True, True, False, False]
    assert found[0]["cases"] == found[0]["announced"] == len(validation.check(lambda x: x, "softmax").rows)
    assert 0 < found[0]["worst"] <= 1
    assert found[0]["worst_case"].startswith("softmax-")
    assert found[2]["searched"] == 20


def test_arguments_of_the_fixture_are_those_of_check(run: Any) -> None:
    source = """
        def test_dialect(conforms):
            seen = []

            def convert(array):
                seen.append(array)
                return array

            def gelu(x, approximate):
                from refimpl import activation
                assert approximate == "none"
                return activation.gelu(x, "none")

            conforms(gelu, "gelu", dialect="none", dtype="float64", convert=convert)
            assert seen

        def test_unknown(conforms):
            conforms(right, "sofmax")
    """
    result = run(source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*unknown component*", "*expected: softmax, log_softmax*", "*got:*'sofmax'*"])
    result.stdout.fnmatch_lines("gelu (none), float64: * cases, worst 0.* of the tolerance (gelu-*)")


# --- the mark -----------------------------------------------------------------------------------------------------------------

EACH = """
    @pytest.mark.golden_vectors("softmax", dtype=["float32", "float16"])
    def test_each(golden_vector):
        golden_vector.judge(right(*golden_vector.arrays, **golden_vector.params))
"""


def test_the_mark_makes_a_test_of_every_vector(run: Any) -> None:
    known = vectors.load("softmax")
    result = run(EACH, "-v")
    result.assert_outcomes(passed=sum(len(known.select(dtype)) for dtype in ("float32", "float16")))
    result.stdout.fnmatch_lines(["*test_each[[]softmax-7-float32] PASSED*", "*test_each[[]softmax-1-float16] PASSED*"])
    result.stdout.fnmatch_lines(f"softmax, float32: {len(known.select('float32'))} cases, worst 0.*")


def test_one_vector_can_be_chosen(run: Any) -> None:
    chosen = run(EACH, "-k", "softmax-7-float32")
    chosen.assert_outcomes(passed=1, deselected=len(_keys()) - 1)
    count = len(_vectors("float32"))
    chosen.stdout.fnmatch_lines([f"softmax, float32: 1 of {count} cases, worst *"])
    run(EACH, "test_it.py::test_each[softmax-7-float16]").assert_outcomes(passed=1)


def _keys() -> list[str]:
    return [key for dtype in ("float32", "float16") for key in _vectors(dtype)]


def _vectors(dtype: str) -> list[str]:
    return [v.id for v in vectors.load("softmax").select(dtype)]


def test_a_wrong_answer_is_told_with_its_place(run: Any) -> None:
    source = """
        @pytest.mark.golden_vectors("softmax")
        def test_each(golden_vector):
            golden_vector.check(wrong)

        @pytest.mark.golden_vectors("softmax")
        def test_raises(golden_vector):
            golden_vector.check(lambda x: x[99])
    """
    result = run(source, "-k", "softmax-9-", "--tb=short")
    result.assert_outcomes(failed=2, deselected=2 * len(validation.check(lambda x: x, "softmax").rows) - 2)
    result.stdout.fnmatch_lines(["*softmax, float32: the answer is wrong", "*softmax-9 apart*non-finite*at [[]0, 0]*"])
    result.stdout.fnmatch_lines(["*softmax-9 apart*raised*IndexError*"])
    result.stdout.fnmatch_lines("softmax, float32: 2 of * cases, 2 FAILED, worst inf of the tolerance (softmax-9)")


def test_a_vector_that_is_not_judged_fails(run: Any) -> None:
    result = run('@pytest.mark.golden_vectors("gelu", dialect="tanh")\ndef test_it(golden_vector): pass')
    count = len(validation.check(lambda x, approximate: x, "gelu", dialect="tanh").rows)
    result.assert_outcomes(failed=count)
    result.stdout.fnmatch_lines("gelu-1: no answer was judged; call golden_vector.judge(answer)")


def test_the_argument_needs_the_mark(run: Any) -> None:
    result = run("def test_it(golden_vector): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines('*golden_vector needs the mark: @pytest.mark.golden_vectors("softmax"*')


@pytest.mark.parametrize(
    ("mark", "lines"),
    [
        ('"sofmax"', ["*there are no vectors of this name", "*expected:*softmax*", "*'sofmax'"]),
        ('"softmax", dtype="float8"', ["*unknown dtype", "*expected: float16, bfloat16*", "*'float8'"]),
        ('"gelu", dialect="erf"', ["*gelu has no such dialect", "*expected: tanh, none*", "*'erf'"]),
        ('"gpt2", dtype="float8"', ["*unknown dtype*"]),
        ('"softmax", dtypes="float32"', ["*it takes golden_vectors(component, dtype*unexpected keyword*dtypes*"]),
    ],
)
def test_bad_arguments_are_told_at_collection(run: Any, mark: str, lines: list[str]) -> None:
    result = run(f"@pytest.mark.golden_vectors({mark})\ndef test_it(golden_vector): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it.py::test_it: @pytest.mark.golden_vectors:*"])
    result.stdout.fnmatch_lines(lines)
    result.stdout.no_fnmatch_line("*Traceback*")


def test_no_dtype_at_all_is_no_success(run: Any) -> None:
    ran = run(
        """
        def test_fixture(conforms):
            conforms(wrong, "softmax", dtype=[])
        """
    )
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*no dtype is asked for*"])
    ran = run(
        """
        @pytest.mark.golden_vectors("softmax", dtype=[])
        def test_mark(golden_vector):
            golden_vector.judge(0)
        """
    )
    assert ran.ret != 0
    ran.stdout.fnmatch_lines(["*no dtype is asked for*"])


def test_a_mark_that_selects_no_vector_is_told(run: Any, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from validation.vectors import VectorSet\nVectorSet.select = lambda *arguments: ()\n")
    result = run(EACH, apart=True)  # it breaks what it patches
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there are no such vectors", "*at least one", "*softmax in float32"])


def test_a_marked_test_without_the_argument_is_told(run: Any) -> None:
    result = run('@pytest.mark.golden_vectors("softmax")\ndef test_it(): pass')
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the vectors have nowhere to go", "*expected: a test with an argument golden_vector"])


@pytest.mark.parametrize(
    "hook", ["pytest_collection_modifyitems(items)", "pytest_collection_modifyitems(session, items)"]
)
def test_a_collection_that_loses_vectors_fails(run: Any, pytester: pytest.Pytester, hook: str) -> None:
    pytester.makeconftest(f"def {hook}:\n    items[:] = [item for item in items if 'softmax-7-' not in item.name]\n")
    result = run(EACH)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it.py::test_each: golden vectors were lost*", "*softmax-7-float* is missing"])


def test_workers_say_that_vectors_were_lost(run: Any, pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makeconftest(
        "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if 'softmax-7-' not in i.name]\n"
    )
    result = run(EACH, "-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, passed=len([key for key in _keys() if key != "softmax-7"]))
    result.stdout.fnmatch_lines(["*test_it.py::test_each: golden vectors were lost*", "*softmax-7-float* is missing"])


def test_a_worker_tells_what_was_taken_away() -> None:
    """What pytest-xdist calls, without its processes."""
    lost = {"test_it.py::test_each": ["softmax-7-float32"]}
    worker = SimpleNamespace(stash=pytest.Stash(), workeroutput={})
    worker.stash[refimpl_pytest._VANISHED] = lost
    refimpl_pytest.pytest_sessionfinish(SimpleNamespace(config=worker))
    reporting = SimpleNamespace(stash=pytest.Stash())
    for output in (json.loads(json.dumps(worker.workeroutput)), {}):
        refimpl_pytest.pytest_testnodedown(SimpleNamespace(config=reporting, workeroutput=output))
    assert reporting.stash[refimpl_pytest._VANISHED] == lost


def test_deselected_vectors_are_not_lost_and_those_taken_away_later_are_told(
    run: Any, pytester: pytest.Pytester
) -> None:
    """The one openly, the others when the collection is over, where no hook reports it."""
    dropping = "items[:] = [i for i in items if i not in lost]"
    pytester.makeconftest(
        "def pytest_collection_modifyitems(items, config):\n"
        "    lost = [item for item in items if 'softmax-7-' in item.name]\n"
        f"    {dropping}\n    config.hook.pytest_deselected(items=lost)\n"
        "def pytest_collection_finish(session):\n"
        "    session.items[:] = [item for item in session.items if 'softmax-1-' not in item.name]\n"
    )
    result = run(EACH)
    assert result.ret == pytest.ExitCode.OK
    told = "test_it.py::test_each: NOT RUN, taken away after the collection: 2 of the vectors (softmax-1-float16, softmax-1-float32)"
    result.stdout.fnmatch_lines(["*= conformance =*", "softmax, float*", told])
    assert "softmax-7" not in result.stdout.str()


def test_workers_report_to_the_summary(run: Any) -> None:
    pytest.importorskip("xdist")
    result = run(EACH, "-n", "2")
    result.assert_outcomes(passed=len(_keys()))
    result.stdout.fnmatch_lines("softmax, float16: * cases, worst 0.*")


def test_properties_of_others_are_left_alone(run: Any) -> None:
    source = """
        def test_it(request):
            request.node.user_properties += [("conforms", "yes"), ("conforms", 7), ("conforms", "{}")]
    """
    result = run(source)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= conformance =*")
