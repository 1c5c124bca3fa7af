"""What all tests share: the number systems, the recorded answers, and how Hypothesis behaves in CI."""

from __future__ import annotations

import os
import sys
import unittest.mock
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # `import systems`, from wherever pytest is started

import systems

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "fixtures"

# Nothing here is timed, on any machine; in CI the examples are the same in every run.
settings.register_profile("default", deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(params=systems.SYSTEMS)
def system(request: pytest.FixtureRequest) -> systems.System:
    """Every number system."""
    return request.param


@pytest.fixture(params=systems.FLOATING)
def floating_system(request: pytest.FixtureRequest) -> systems.System:
    """Every number system but balls."""
    return request.param


@pytest.fixture
def kept_environment() -> Any:
    """Variables of the environment are afterwards what they were: Dask sets some for its workers, and leaves them set."""
    with unittest.mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def recorded() -> Any:
    """recorded("gpt2_tiny") -> name -> NumPy array: what an independent implementation answered."""
    import weights_io

    def answers(name: str) -> dict[str, Any]:
        return dict(weights_io.open(ROOT / "validation" / "recorded" / name / "answers.safetensors"))

    return answers


@pytest.fixture(scope="session")
def recorded_folder() -> Any:
    """recorded_folder("gpt2_tiny") -> the folder of that recorded model."""
    return lambda name: ROOT / "validation" / "recorded" / name / "model"


@pytest.fixture(scope="session")
def shared() -> Any:
    """shared("hf_gpt2") -> that folder of fixtures outside the repository; skips, with the reason, where it is absent."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"fixtures outside the repository are not here: {path}")
        return path

    return folder
