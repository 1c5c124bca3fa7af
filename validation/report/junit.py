"""`junit.xml`, in the form that continuous integration reads: testsuites, testsuite, properties, testcase with failure or skipped.

A test case is a case of a component or a check of the engine, named by its identifier. Checks have the seconds they took; cases are not timed, so
that the same answers give the same bytes, and have no `time`. A failing report always has a failure, also where every case that ran is right but
fewer ran than were announced.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from validation.report.text import LONGEST, figure, visible

__all__ = ["render"]

HEADLINE = 200  # characters of a failure's message; its text has more
TEXT = 8 * LONGEST  # of its text, whose parts have been cut


def render(told: dict[str, Any]) -> bytes:
    """The file of a report's content (`content.of`)."""
    suites = _suites_of_component(told) if told["kind"] == "conformance" else _suites_of_engine(told)
    if not told["passed"] and not any(len(case.findall("failure")) for suite in suites for case in suite):
        suites.append(_missing(told))
    root = ET.Element("testsuites", {"name": "refimpl"} | _totals([case for suite in suites for case in suite]))
    for suite in suites:
        suite.attrib |= _totals(list(suite))
        root.append(suite)
    ET.indent(root, " ")
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _totals(elements: list[ET.Element]) -> dict[str, str]:
    cases = [each for each in elements if each.tag == "testcase"]
    timed = [float(case.attrib["time"]) for case in cases if "time" in case.attrib]
    counts = {name: sum(case.find(name) is not None for case in cases) for name in ("failure", "skipped")}
    figures = {"tests": len(cases), "failures": counts["failure"], "errors": 0, "skipped": counts["skipped"]}
    return {name: str(number) for name, number in figures.items()} | ({"time": f"{sum(timed):.3f}"} if timed else {})


def _suite(name: str, properties: dict[str, Any]) -> ET.Element:
    suite = ET.Element("testsuite", {"name": visible(name)})
    suite.append(_properties(properties))
    return suite


def _properties(values: dict[str, Any]) -> ET.Element:
    element = ET.Element("properties")
    for name, value in values.items():
        if value is not None:
            ET.SubElement(element, "property", {"name": name, "value": visible(str(value))})
    return element


def _case(group: str, name: str, seconds: float | None, properties: dict[str, Any]) -> ET.Element:
    timed = {} if seconds is None else {"time": f"{seconds:.3f}"}
    case = ET.Element("testcase", {"classname": visible(group), "name": visible(name)} | timed)
    case.append(_properties(properties))
    return case


def _fail(case: ET.Element, kind: str, message: str, text: str) -> None:
    failure = ET.SubElement(case, "failure", {"type": visible(kind), "message": visible(message, HEADLINE)})
    failure.text = visible(text, TEXT)


def _suites_of_component(told: dict[str, Any]) -> list[ET.Element]:
    name = ".".join(filter(None, [told["component"], told["dialect"], told["dtype"]]))
    about = {key: told[key] for key in ("component", "dialect", "dtype", "announced", "refimpl")} | told["environment"]
    suite = _suite(name, about)
    for row in told["cases"]:
        figures = {key: row[key] for key in ("verdict", "multiple", "error")} | {
            "flags": ", ".join(row["flags"]) or None
        }
        case = _case(name, row["id"] or row["case"], None, figures)
        if not row["passed"]:
            _fail(case, row["verdict"], f"{row['verdict']}: error {figure(row['multiple'])} x tolerance", _told(row))
        suite.append(case)
    return [suite]


def _told(row: dict[str, Any]) -> str:
    place = f"at {row['where']} " if row["where"] else ""
    lines = [f"{row['case']}: {row['hard']}", f"{place}expected {_both(row, 'expected')}, got {_both(row, 'got')}"]
    return "\n".join([*lines, *([f"where {row['inputs']}"] if row["inputs"] else [])])


def _both(row: dict[str, Any], name: str) -> str:
    """A number as decimal and in hexadecimal."""
    return f"{row[name]} ({row[f'{name}_hex']})" if row[f"{name}_hex"] else str(row[name])


def _suites_of_engine(told: dict[str, Any]) -> list[ET.Element]:
    about = {key: told[key] for key in ("backend", "seed", "refimpl")} | told["environment"]
    suites = {
        section: _suite(section, about) for section in dict.fromkeys(check["section"] for check in told["checks"])
    }
    for check in told["checks"]:
        figures = {key: check[key] for key in ("verdict", "multiple", "cases", "announced")}
        case = _case(check["section"], check["id"], check["seconds"], figures)
        if not check["passed"]:
            ran = f"{check['verdict']}, {check['cases']} cases of {check['announced'] or 0} announced"
            _fail(case, check["verdict"], ran, f"{check['statement']}\n{check['worst']}")
        elif check["verdict"] == "not run":
            ET.SubElement(case, "skipped", {"message": visible(check["worst"], HEADLINE)})
        suites[check["section"]].append(case)
    return list(suites.values())


def _missing(told: dict[str, Any]) -> ET.Element:
    """A suite for what is wrong though no case is: fewer ran than were announced, or none."""
    announced = told.get("announced", told.get("announced_checks"))
    ran = len(told["cases"] if told["kind"] == "conformance" else told["checks"])
    suite = _suite("announced", {})
    case = _case("announced", "every announced case ran", None, {})
    _fail(
        case,
        "not run",
        f"{ran} of {announced} ran",
        "A report of fewer cases than were announced, or of none, has not passed.",
    )
    suite.append(case)
    return suite
