"""What is recorded of the legal spread: complete, contained, and shown by every report."""

import json

import numpy as np
import pytest

import validation
from refimpl import softmax
from validation import components, legal, tolerance


@pytest.mark.parametrize("dtype", tolerance.DTYPES)
@pytest.mark.parametrize("name", [name for name, component in components.COMPONENTS.items() if not component.exact])
def test_every_component_has_a_record_in_every_dtype(name, dtype):
    found = legal.recorded(name, dtype)
    assert found is not None, "python -m validation.spread " + name
    assert len(found.rows) >= 12
    assert len({row.name for row in found.rows}) == len(found.rows)
    assert found.contained
    assert all(row.multiple >= 0 and name in row.where for row in found.rows)


def test_what_was_not_measured_has_no_record():
    assert legal.recorded("softmax", "float8") is None
    assert legal.recorded("no such component", "float32") is None


@pytest.mark.parametrize("right", [True, False])
def test_every_report_says_how_far_legal_evaluations_differ(right, tmp_path):
    report = validation.check(softmax.softmax if right else np.exp, "softmax")
    widest = legal.recorded("softmax", "float32").widest
    assert f"use up to {widest.multiple:g} of the tolerance ({widest.name})" in str(report)
    report.write(tmp_path / "page")
    told = json.loads((tmp_path / "page" / "report.json").read_text("utf-8"))
    assert told["spread"]["widest"] == widest.multiple
    assert widest.name in (tmp_path / "page" / "index.html").read_text("utf-8")
