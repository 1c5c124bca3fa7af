"""Reports as folders: the page, the JSON and the XML say the same, need nothing else, and survive what strangers' functions raise."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jsonschema
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import validation
from refimpl import backend, cli
from refimpl.errors import ConfigError
from validation import report, run, vectors
from validation.checks import Check, Finding
from validation.conformance import Report, judge_answers
from validation.report import content, growth, junit, page, plots, text
from validation.vectors import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(validation.__file__).parent.parent
NUMPY = backend.get("numpy")
HOSTILE = (
    "<script>alert(1)</script> </style> & \" ' ]]> {{ 7 * 6 }} \x1b[31mred\x1b[0m NUL\x00 \x07\x85 𝔘 \u202egnp.exe "
    "\ud800 \uffff end"
)
LONG = "A" * 50_000
CUT = f"ValueError: {'A' * 1988} … (48,012 more characters)"


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _unshifted(x: Any) -> Any:
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def _hostile(x: Any) -> Any:
    if x.shape[-1] % 3 == 0:
        raise ValueError(HOSTILE)
    if x.shape[-1] % 3 == 1:
        raise ValueError(LONG)
    return _softmax(x).astype(np.float64)


def _validation(*lines: tuple[str, Finding]) -> run.Validation:
    made = [
        run.Line(Check(f"X-{number}", section, f"statement {number}", 3, lambda setting, f=finding: f), finding, 0.25)
        for number, (section, finding) in enumerate(lines)
    ]
    return run.Validation(tuple(made), len(lines), "numpy", 0, 1.5)


GROWN = growth.Growth(
    "net",
    "A network",
    "float32",
    3,
    tuple(growth.Layer(f"block {i}", 2.0, i * 1e-7, 1e-5, i * 0.01, 1e-30) for i in range(4)),
)
ENGINE = (
    ("claims", Finding(True, "proved", 3, "x = 3", 0.5)),
    ("claims", Finding(True, "refuted", 3, "a counterexample")),
    ("parity", Finding(True, "agrees", 3, "1e-15", 0.001)),
    ("parity", Finding(False, "outside", 3, HOSTILE, 7.25)),
    ("truth", Finding(False, "outside", 3, "far", math.inf)),
    ("truth", Finding(True, "contained", 3, "nan", math.nan)),
    ("number systems", Finding(False, "raised", 0, LONG)),
    ("number systems", Finding(True, "within proof", 2, "one case too few", 0.2)),
    ("number systems", Finding(True, "within proof", 3, "exact", 0.0, (5, 2, 1, 0, 0, 0, 0, 0))),
    ("number systems", Finding(True, "within proof", 3, "exact", 0.0, (7, 0, 0, 0, 0, 0, 0, 1))),
)
REPORTS: dict[str, Callable[[], Any]] = {
    "good": lambda: validation.check(_softmax, "softmax"),
    "unshifted": lambda: validation.check(_unshifted, "softmax"),
    "hostile": lambda: validation.check(_hostile, "softmax"),
    "drawn": lambda: validation.check(_unshifted, "gelu", dialect="tanh", dtype="float64", seed=3),
    "engine": lambda: _validation(*ENGINE),
    "holds": lambda: _validation(ENGINE[0]),
    "short": lambda: dataclasses.replace(_report("good"), announced=len(_report("good").rows) + 1),
    "empty": lambda: Report("softmax", None, "float32", 0, ()),
}


@functools.cache
def _report(name: str) -> Any:
    return REPORTS[name]()


SCHEMA = json.loads(report.SCHEMA.read_text("utf-8"))


def _written(name: str, folder: Path) -> dict[str, Any]:
    """The three files of a report: the page as text, the JSON as data, the XML as its root."""
    grown = {"growth": [GROWN]} if isinstance(_report(name), run.Validation) else {}
    _report(name).write(folder, **grown)
    assert sorted(path.name for path in folder.iterdir()) == sorted(report.NAMES)
    return {
        "html": (folder / "index.html").read_text("utf-8"),
        "json": json.loads((folder / "report.json").read_text("utf-8")),
        "xml": ET.parse(folder / "junit.xml").getroot(),
    }


@pytest.fixture(params=REPORTS, scope="module")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    name = request.param
    return {"name": name, "report": _report(name)} | _written(name, tmp_path_factory.mktemp(name) / "report")


class _Page(HTMLParser):
    """All elements with their attributes, the identifiers, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in names]


# ------------------------------------------------------------------------------------------------------------------- report.json


def test_the_json_keeps_its_schema(written: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(written["json"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("cases", 0, "multiple"), "large"),
        (("cases", 0, "got_hex"), "1.0"),
        (("worst",), -1),
        (("kind",), "other"),
    ],
)
def test_the_schema_can_fail(path: tuple[Any, ...], value: Any) -> None:
    told = content.of(_report("good"))
    place = told
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(told)


def test_the_json_has_what_the_report_has(written: dict[str, Any]) -> None:
    """It is what --json prints, and more; of a text that is cut it says how much is lost."""
    printed, told = content.plain(written["report"].as_json()), written["json"]
    rows = "cases" if told["kind"] == "conformance" else "checks"
    assert {name: told[name] for name in printed if name != rows} == {n: v for n, v in printed.items() if n != rows}
    assert [{name: row[name] for name in was} for row, was in zip(told[rows], printed[rows], strict=True)] == printed[
        rows
    ]
    if written["name"] == "hostile":
        assert {case["got"] for case in told["cases"]} >= {f"ValueError: {HOSTILE}", CUT}
    if written["name"] == "engine":
        assert [check["worst"] for check in told["checks"]].count(f"{'A' * 2000} … (48,000 more characters)") == 1


def test_the_worst_element_is_told_in_hexadecimal_too() -> None:
    told = content.of(_report("unshifted"))
    row = told["cases"][0]
    assert float.fromhex(row["expected_hex"]) == float(row["expected"])
    assert float.fromhex(row["got_hex"]) == float(row["got"])
    assert row["inputs"].startswith("x = ")
    failed = told["cases"][told["worst"]]
    assert (failed["passed"], failed["got"], failed["got_hex"], failed["multiple"]) == (False, "nan", None, "inf")


def test_suspects_are_flags_that_no_passing_case_has() -> None:
    told = content.of(_report("unshifted"))
    assert "unshifted-exp" in told["suspects"]
    passing = {flag for case in told["cases"] if case["passed"] for flag in case["flags"]}
    assert passing
    assert not passing & set(told["suspects"])
    assert content.of(_report("hostile"))["suspects"] == []


# --------------------------------------------------------------------------------------------------------------------- junit.xml


def test_histograms_of_checks_are_added_up() -> None:
    told = content.of(_report("engine"))
    assert list(told["ulps"].values()) == [12, 2, 1, 0, 0, 0, 0, 1]
    assert "≤ 0.5 units: 12 (75.0%)" in page.render(told).decode()


def test_junit_counts_what_it_holds(written: dict[str, Any]) -> None:
    root, passed = written["xml"], written["report"].passed
    assert root.tag == "testsuites"
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert int(element.attrib["tests"]) == len(cases)
        assert int(element.attrib["failures"]) == sum(case.find("failure") is not None for case in cases)
        assert int(element.attrib["skipped"]) == sum(case.find("skipped") is not None for case in cases)
        assert int(element.attrib["errors"]) == 0
        timed = [float(case.attrib["time"]) for case in cases if "time" in case.attrib]
        assert len(timed) == (len(cases) if isinstance(written["report"], run.Validation) else 0)
        assert ("time" in element.attrib) == bool(timed)  # what was not measured is not given as 0
        assert float(element.attrib.get("time", "0")) == pytest.approx(sum(timed), abs=1e-9)
    assert (int(root.attrib["failures"]) == 0) == passed, (
        "a failing report without a failure, or a passing one with one"
    )
    for suite in root:
        assert suite.tag == "testsuite"
        assert next(child.tag for child in suite) == "properties"
        assert all(child.tag == "testcase" for child in list(suite)[1:])


def test_junit_names_are_identifiers() -> None:
    root = ET.fromstring(junit.render(content.of(_report("unshifted"))))
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert list(cases) == [row.id for row in _report("unshifted").rows]
    assert {name for name, case in cases.items() if case.find("failure") is not None} == {
        row.id for row in _report("unshifted").rows if not row.verdict.passed
    }
    failure = cases["softmax-20"].find("failure")
    assert failure is not None
    assert failure.attrib == {"type": "non-finite", "message": "non-finite: error ∞ x tolerance"}
    assert "expected 5.030976168371311e-161 (0x1.6a2491c6461f3p-533), got nan" in (failure.text or "")
    assert cases["softmax-1"].attrib["classname"] == "softmax.float32"
    about = {each.attrib["name"]: each.attrib["value"] for each in root[0].find("properties") or ()}
    assert about["component"] == "softmax"
    assert about["numpy"] == np.__version__
    multiples = {
        name: each.attrib["value"]
        for name, case in cases.items()
        for each in case.iter("property")
        if each.attrib["name"] == "multiple"
    }
    assert multiples["softmax-1"] == repr(_report("unshifted").rows[0].verdict.multiple)


def test_junit_of_the_engine_has_a_suite_a_section_and_skips_what_was_not_run() -> None:
    told = content.of(
        _validation(("claims", Finding(True, "proved", 3, "")), ("parity", Finding(True, "agrees", 3, "")))
    )
    told["checks"][1] |= {"verdict": "not run", "worst": "set a variable"}
    root = ET.fromstring(junit.render(told))
    assert [suite.attrib["name"] for suite in root] == ["claims", "parity"]
    assert [case.attrib["name"] for case in root.iter("testcase")] == ["X-0", "X-1"]
    assert root.attrib["time"] == "0.500"
    assert [each.attrib["message"] for each in root.iter("skipped")] == ["set a variable"]


# -------------------------------------------------------------------------------------------------------------------- index.html


def test_the_page_needs_nothing_else(written: dict[str, Any]) -> None:
    """No script, no file, no network: every reference is to an identifier in the page, and each of those is there once."""
    found = _Page(written["html"])
    assert found.open == []
    tags = {tag for tag, _ in found.elements}
    assert not tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
        "base",
        "form",
        "foreignobject",
        "video",
        "audio",
    }
    names = {name for _, attributes in found.elements for name in attributes}
    assert not names & {"src", "srcset", "xlink:href", "data", "action", "background", "poster"}
    assert not [name for name in names if name.startswith("on")]
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    references = found.values("href")
    assert references or written["name"] == "empty"
    assert all(value.startswith("#") for value in references)
    references = [value[1:] for value in references]
    references += re.findall(r"url\(#([^)]+)\)", written["html"])
    references += [each for value in found.values("aria-labelledby") for each in value.split()]
    assert set(references) <= set(ids)
    style = re.sub(r"url\(#[^)]+\)", "", written["html"])
    assert "url(" not in style
    assert "@import" not in style
    assert not [value for _, attributes in found.elements for value in attributes.values() if "//" in (value or "")]


def test_the_page_says_what_the_json_says(written: dict[str, Any]) -> None:
    """Every multiple, in the order of the table, with all its digits; and the verdicts as words."""
    told, html = written["json"], written["html"]
    rows = told["cases"] if told["kind"] == "conformance" else told["checks"]
    shown = re.findall(r'<tr role="row" id="row-(\d+)"( class="failing")?>(.*?)</tr>', html, re.DOTALL)
    assert sorted(int(number) for number, _, _ in shown) == list(range(len(rows)))
    passed = [rows[int(number)]["passed"] for number, _, _ in shown]
    assert passed == sorted(passed), "a failing row below a passing one"
    for number, failing, body in shown:
        row = rows[int(number)]
        assert bool(failing) is not row["passed"]
        assert ("✗" in body, "fails" in body) == (not row["passed"], not row["passed"])
        assert ("✓" in body) is row["passed"]
        assert row["verdict"] in body
        values = re.findall(r'<data value="([^"]*)">', body)
        expected = [row["multiple"]] if row["multiple"] is not None else []
        expected += [row["cases"]] if told["kind"] == "validation" else []
        assert values == [str(value) for value in expected]
    for layer in [layer for each in told.get("growth", ()) for layer in each["layers"]]:
        assert html.count(f'<td class="figure"><data value="{layer["multiple"]}">') >= 1
        assert html.count(f'<td class="figure"><data value="{layer["error"]}">') >= 1


def test_failing_rows_come_by_their_error() -> None:
    html = page.render(content.of(_report("engine"))).decode()
    assert re.findall(r'<tr role="row" id="row-(\d+)"', html) == ["4", "5", "3", "7", "6", "0", "1", "2", "8", "9"]


def test_the_summary_answers_the_four_questions() -> None:
    html = " ".join(_Page(page.render(content.of(_report("unshifted"))).decode()).text)
    head = " ".join(html[: html.index("Plots")].split())
    for said in (
        *("Does not conform", "18 of 27 cases pass", "Where?", "By how much?", "∞ × tolerance", "Probably why?"),
        *("inputs x = 92.0 (0x1.7000000000000p+6)", "expected 0.7053845126982412", "got nan", "un-shifted (bug)"),
    ):
        assert said in head, said
    html = page.render(content.of(_report("good"))).decode()
    assert "Conforms" in html
    assert "Probably why?" not in html
    assert "Only 27 of 28 ran, which fails." in page.render(content.of(_report("short"))).decode()


CAUSE = {
    "kind": "bug",
    "name": "un-shifted <exp>",
    "flag": "unshifted-exp",
    "explains": 7,
    "failing": 7,
    "complete": True,
    "contradicted": 0,
}
CAUSE |= {"description": "exp(x) without the maximum", "effect": "overflows"}
PARTLY = CAUSE | {"name": "another", "explains": 2, "complete": False, "contradicted": 3}


@pytest.mark.parametrize(
    ("causes", "said"),
    [
        (
            [CAUSE, PARTLY],
            "Probably why? un-shifted <exp> (bug) explains 7 of 7 failing cases. exp(x) without the maximum; overflows",
        ),
        (
            [CAUSE, CAUSE],
            "Probably why? 2 known causes, which cannot be told apart by these answers: un-shifted <exp> (bug)",
        ),
        (
            [PARTLY],
            "Nothing known explains all of it; in part: another (bug) explains 2 of 7 failing cases, but 3 that passed would have failed.",
        ),
        ([], "Nothing known explains it. Good to three digits"),
        ([CAUSE] * 7, "And 2 more, in report.json ."),
    ],
)
def test_a_diagnosis_and_a_spread_are_shown_where_there_are_some(causes: Any, said: str, tmp_path: Path) -> None:
    class Diagnosed(Report):
        def as_json(self) -> dict[str, Any]:
            found = {"explanations": causes, "text": "in words", "remark": "Good to three digits"}
            return super().as_json() | {"diagnosis": found}

    old = _report("unshifted")
    diagnosed = Diagnosed(old.component, old.dialect, old.dtype, old.announced, old.rows)
    legal = [
        SimpleNamespace(name=name, multiple=each, where="", ulps={"<= 1": 3})
        for name, each in (("pairwise", 0.25), ("FMA " * 20, 0.5))
    ]
    diagnosed.write(tmp_path, spread=SimpleNamespace(rows=legal))
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert told["spread"]["widest"] == 0.5
    jsonschema.Draft202012Validator(SCHEMA).validate(told)
    shown = " ".join(" ".join(_Page(page.render(told).decode()).text).split())
    assert said in shown
    assert "Legal spread" in shown
    assert "pairwise: 0.25 × tolerance" in shown
    assert f"{'FMA ' * 8}F…" in shown


@pytest.mark.parametrize("name", ["hostile", "engine"])
def test_what_strangers_raise_is_shown_and_does_nothing(name: str, tmp_path: Path) -> None:
    found = _written(name, tmp_path)
    said = " ".join(_Page(found["html"]).text)
    assert "<script>alert(1)</script> </style> &" in said
    assert "{{ 7 * 6 }}" in said
    assert "[U+001B][31mred[U+001B][0m NUL[U+0000] [U+0007][U+0085] 𝔘 [U+202E]gnp.exe [U+D800] [U+FFFF] end" in said
    assert found["html"].count("</style>") == 1
    assert f"{'A' * 1900}" in said
    assert "A" * (text.LONGEST + 1) not in said
    assert "more characters)" in said
    failures = "".join(each.text or "" for each in found["xml"].iter("failure"))
    for shown in (said, failures):  # cut once, so that the number is that of all that is missing
        assert {"48,012" if name == "hostile" else "48,000"} == set(
            re.findall(r"… \(([\d,]+) more characters\)", shown)
        )
    assert "<script>alert(1)</script> </style> & \" ' ]]>" in failures
    assert "[U+001B][31mred" in failures
    assert "A" * (text.LONGEST + 1) not in failures


def test_a_text_of_a_megabyte_makes_small_files(tmp_path: Path) -> None:
    def loud(x: Any, approximate: str) -> Any:
        raise ValueError("B" * 10**6)

    validation.check(loud, "gelu", dialect="tanh").write(tmp_path)
    assert all((tmp_path / name).stat().st_size < 200_000 for name in report.NAMES)
    assert "(998,012 more characters)" in str(validation.check(loud, "gelu", dialect="tanh"))


@given(st.integers(0, 3000), st.integers(1, 2500))
def test_what_is_cut_is_not_cut_again(length: int, longest: int) -> None:
    short = text.cut("x" * length, longest)
    assert text.cut(short, longest) == short
    assert len(short) <= longest + 40
    assert short == "x" * length or short == f"{'x' * longest} … ({length - longest:,} more characters)"


@given(st.text(alphabet=st.characters(), max_size=40))  # lone surrogates too
def test_visible_text_is_fit_for_xml(strange: str) -> None:
    shown = text.visible(strange)
    element = ET.Element("a", {"b": shown})
    element.text = shown
    read = ET.fromstring(ET.tostring(element, encoding="utf-8"))
    assert read.text == (shown or None)
    assert read.attrib["b"] == shown
    assert not set(shown) & set("\x00\x1b\u202e\u2066")


@given(st.one_of(st.floats(0, 1e300), st.floats(0.99, 1.01), st.just(math.inf)))
def test_no_number_is_rounded_to_its_limit(value: float) -> None:
    """What is below 1 is not shown as 1, nor what is above."""
    shown = text.figure(content.plain(value))
    assert (shown == "1") == (value == 1)
    if math.isfinite(value) and not shown.startswith(">"):
        assert float(shown) == pytest.approx(value, rel=0.0051)


# ----------------------------------------------------------------------------------------------------------------------- the plots


@given(st.lists(st.floats(min_value=0, allow_subnormal=False), min_size=1, max_size=6))
def test_axes_keep_the_order_and_the_side_of_the_limit(values: list[float]) -> None:
    scale = plots.Scale.of(values, 1.0)
    low, high = scale.ends(values)
    places = [scale.at(value) for value in values]
    assert all(low < place < high for place in places)
    for a, b in itertools.pairwise(values):
        assert not (a < b and scale.at(a) > scale.at(b))
    for value, place in zip(values, places, strict=True):
        assert (value > 1) == (place > 0) or abs(value - 1) < 1e-15
    assert scale.at(math.nan) == scale.at(math.inf) > scale.high


def test_every_plot_has_a_text_alternative_and_every_mark_a_title() -> None:
    marks = [plots.Mark("a", 0.5, True, "a: 0.5"), plots.Mark("b", math.inf, False, "b: ∞ <&>")]
    for svg in (plots.strip("p", "Title", marks), plots.rows("p", "Title", marks, "error")):
        root = ET.fromstring(svg)
        assert root.attrib["role"] == "img"
        titles = [each.text for each in root.iter("title")]
        assert titles == ["Title", "a: 0.5", "b: ∞ <&>"]
        assert [each.text for each in root.iter("desc")] == [
            "1 of 2 are within their limit of 1. Nearest to the limit, or farthest beyond: b: ∞ <&>."
        ]
        assert "#01010" not in svg
        assert "var(--bad)" in svg
        assert "var(--good)" in svg


def test_plots_do_not_depend_on_the_settings_of_others() -> None:
    first = plots.bars("p", "Title", {"<= 1": 3, "more": 1})
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert plots.bars("p", "Title", {"<= 1": 3, "more": 1}) == first
        assert mpl.rcParams["font.size"] == 30


# ------------------------------------------------------------------------------------------------------------------ error growth


def test_growth_is_within_budget_and_a_wrong_layer_is_not() -> None:
    name, make = growth.NETWORKS["SYSTEMS.gpt2_tiny"]
    network = make()
    right = growth.measure(name, network, NUMPY)
    assert [layer.name for layer in right.layers] == list(network.layers)
    assert all(0 <= layer.multiple < 1 for layer in right.layers)
    assert all(
        layer.multiple >= layer.error / layer.budget for layer in right.layers
    )  # the error and budget of two places
    assert all(layer.radius < 1e-15 for layer in right.layers)
    assert right.layers[-2].error > right.layers[0].error

    def states(arrays: dict[str, Any]) -> list[Any]:
        found = network.states(arrays)
        if str(getattr(found[2], "dtype", "")) == "float32":
            found[2] = found[2].astype(np.float16).astype(np.float32)
        return found

    wrong = growth.measure(name, dataclasses.replace(network, states=states), NUMPY)
    assert [layer.multiple > 1 for layer in wrong.layers] == [False, False, True, False, False, False]
    html = page.render(content.of(_report("holds"), [wrong])).decode()
    assert "Error growth: gpt2_tiny" in html


def test_growth_belongs_to_the_checks_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "measure", lambda name, network, chosen: name)
    assert growth.of_checks(["X-1"], NUMPY) == []
    assert growth.of_checks(["X-1", "SYSTEMS.gpt2_tiny", "PARITY.transformers_bert"], NUMPY) == [
        "gpt2_tiny",
        "bert_tiny",
    ]


# -------------------------------------------------------------------------------------------------------------------- the folder


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    """In another process, whose hashes differ, too."""
    code = (
        "import sys, dataclasses, numpy as np, validation\n"
        "def f(x):\n    e = np.exp(x)\n    return e / e.sum(axis=-1, keepdims=True)\n"
        "validation.check(f, 'softmax').write(sys.argv[1])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], cwd=ROOT, env=environment, check=True)
    _report("unshifted").write(tmp_path / "here")
    for name in report.NAMES:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    _written("good", tmp_path / "a" / "b")
    assert _written("unshifted", tmp_path / "a" / "b")["json"]["passed"] is False


def _refuse() -> None:
    raise PermissionError("read-only")


def test_a_folder_with_other_things_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        report.write(_report("good"), tmp_path)
    assert str(caught.value).splitlines() == [
        "the folder holds something else",
        f"  where:    {tmp_path}",
        "  expected: an empty folder, or an earlier report",
        "  got:      'notes.txt'",
        "  to do:    name a new folder; index.html, junit.xml, report.json are written into it",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    folder = tmp_path / "other"
    (folder / "index.html").mkdir(parents=True)
    with pytest.raises(ConfigError, match="index\\.html"):
        report.prepare(folder)
    with pytest.raises(ConfigError, match="cannot be used"):
        report.prepare(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="cannot be used"):
        report.prepare(tmp_path / "notes.txt" / "below")
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", lambda dir: _refuse())
        with pytest.raises(ConfigError, match="cannot be used"):
            report.prepare(tmp_path / "read-only")
    with pytest.raises(ConfigError, match=r"a name that ends in \.json"):
        report.prepare(tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


def test_a_failure_while_writing_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _written("good", tmp_path)
    monkeypatch.setattr(junit, "render", lambda told: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _report("unshifted").write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.NAMES)
    assert (tmp_path / "index.html").read_text("utf-8") == before["html"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="a report needs packages that are not installed") as caught:
        report.prepare(tmp_path)
    assert "pip install jinja2 matplotlib" in str(caught.value)


def test_everything_that_reports_need_is_packaged() -> None:
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"][
        "validation"
    ]
    folder = ROOT / "validation" / "report"
    others = [f"report/{path.name}" for path in folder.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(others) == 3
    assert [name for name in others if not any(fnmatch(name, each) for each in globs)] == []


# ------------------------------------------------------------------------------------------------------------------- the commands


def _invoke(*arguments: Any, given: bytes | None = None) -> Any:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], input=given, env={"NO_COLOR": "1"})


def test_vectors_check_writes_a_report(tmp_path: Path) -> None:
    chosen = vectors.load("gelu").select("float32")
    stream = io.BytesIO()
    for vector in chosen[1:]:
        answer = vector.expected.high.astype(np.float32)
        stream.write(f"answer {vector.id} float32 {' '.join(map(str, (answer.ndim, *answer.shape)))}\n".encode())
        stream.write(answer.tobytes())
    assert len(protocol.read_stream(io.BytesIO(stream.getvalue()))) == len(chosen) - 1
    result = _invoke("vectors", "check", "gelu", "--stream", "--report", tmp_path / "r", given=stream.getvalue())
    assert result.exit_code == 1, result.output
    assert f"Report: {tmp_path / 'r' / 'index.html'}" in result.stdout
    told = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))
    judged = judge_answers(
        "gelu", "float32", protocol.read_stream(io.BytesIO(stream.getvalue())), [v.id for v in chosen]
    )
    assert told == content.of(judged)
    assert [case["id"] for case in told["cases"] if not case["passed"]] == [chosen[0].id]


@pytest.mark.parametrize("command", [("validate",), ("vectors", "check", "softmax", "--stream")])
def test_a_folder_is_refused_before_anything_runs(command: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(run, "validate", lambda *args, **options: pytest.fail("it ran"))
    monkeypatch.setattr(protocol, "read_stream", lambda stream: pytest.fail("it read"))
    (tmp_path / "notes.txt").write_text("mine")
    result = _invoke(*command, "--report", tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert "the folder holds something else" in str(result.exception)


def test_nothing_is_written_or_imported_unless_a_report_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom refimpl import cli\n"
        "try:\n    cli.app(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print(*[name for name in ('jinja2', 'matplotlib', 'markupsafe') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "REFIMPL_BACKEND": "numpy"}

    def loaded(*more: str) -> list[str]:
        command = [sys.executable, "-c", code, "validate", "--only", "TAYLOR-6.order", *more]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1].split()

    assert loaded() == []
    assert list(tmp_path.iterdir()) == []
    assert loaded("--report", "r") == ["jinja2", "matplotlib", "markupsafe"]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(report.NAMES)
