"""Ranks that are processes: mpiexec starts them here, two and four on whatever cores there are. Few runs, each of which does much."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import refimpl
from refimpl import console, errors, parallel_job

ROOT = Path(__file__).parent.parent
BESIDE = Path(sys.executable).with_name("mpiexec")
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
LONGEST = 240  # seconds, after which a job counts as one that hangs

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason='no mpi4py or no mpiexec: the extra "mpi"'
)


def _job(ranks: int, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """A job of so many ranks; one that hangs fails the test."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [str(MPIEXEC), "-n", str(ranks), sys.executable, *command],
        cwd=ROOT,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LONGEST,
        check=False,
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_add_in_one_order_and_give_the_logits_of_cpm(ranks: int) -> None:
    """The shards of 1, 2 and 4 ranks on 2 and on 4: their own files where the numbers agree, slices where not."""
    done = _job(ranks, "tests/ranks.py", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    *texts, farthest = done.stdout.splitlines()
    assert float(farthest) <= 1e-12
    one = refimpl.load(
        ROOT / "validation" / "recorded" / "cpm_megatron" / "mp1", backend="numpy", dtype="float64", heads=4
    )
    (expected,) = one.generate_ids([[1, 2, 3]], max_new_tokens=8, temperature=0)
    assert [line.split()[0] for line in texts] == ["mp2", "mp4", "mp1"]
    assert [list(map(int, line.split()[1:])) for line in texts] == [expected] * 3


@needs_mpi
def test_generate_on_two_ranks_prints_once_what_one_prints() -> None:
    options = ["generate", "春眠不觉晓，", "--max-new-tokens", "12", "--temperature", "0", "--backend", "numpy"]
    two = _job(2, "-m", "refimpl", *options, "--parallel")
    one = refimpl.load("tang", backend="numpy").generate("春眠不觉晓，", max_new_tokens=12, temperature=0)
    assert (two.returncode, two.stdout, two.stderr) == (0, one + "\n", "")


@needs_mpi
def test_score_on_two_ranks() -> None:
    done = _job(2, "-m", "refimpl", "score", "-", "--parallel", "--json", "--backend", "numpy", text="明月何时有\n")
    assert done.returncode == 0, done.stderr
    expected = refimpl.load("tang", backend="numpy").score("明月何时有").perplexity
    # float32, a mean of five logarithms: no cut moves the perplexity by a thousandth
    assert json.loads(done.stdout)["perplexity"] == pytest.approx(expected, rel=1e-3)


@needs_mpi
def test_a_number_of_ranks_that_does_not_divide_the_model_is_said_once() -> None:
    folder = ROOT / "validation" / "recorded" / "gpt2_tiny" / "model"
    done = _job(2, "-m", "refimpl", "generate", "a", "--parallel", "--backend", "numpy", "--model", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("the model does not divide into 2 ranks") == 1
    assert "3 heads" in done.stderr


@needs_mpi
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", "Killed (signal 9)"),  # mpiexec's words
        ("follow", "error on rank 1 of 2, which ends the job"),
        ("lead", "error on rank 0 of 2, which ends the job"),
    ],
)
def test_a_rank_that_dies_ends_the_job(how: str, words: str) -> None:
    """Between two sums, when the other rank waits for it: no hang, a status that is not 0, and a message."""
    done = _job(2, "tests/ranks.py", how)
    assert done.returncode not in (0, None)
    assert words in done.stdout + done.stderr
    assert ("planted" in done.stderr) is (how != "kill")
    assert "春眠不觉晓，" not in done.stdout


# --- without mpiexec, without mpi4py ----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in parallel_job.STARTED:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_mpiexec_the_message_says_how_to_start(alone: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ConfigError, match=r"needs mpiexec(.|\n)*mpiexec -n 2 refimpl(.|\n)*refimpl\[mpi\]"):
        parallel_job.world()


@pytest.mark.parametrize("kind", [ModuleNotFoundError, RuntimeError])
def test_without_mpi4py_or_its_library_the_message_says_what_to_install(
    kind: type[Exception], alone: pytest.MonkeyPatch
) -> None:
    class Missing:
        def __getattr__(self, name: str) -> object:
            raise kind("cannot load MPI library")

    alone.setenv("PMI_SIZE", "2")
    alone.setitem(sys.modules, "mpi4py", None if kind is ModuleNotFoundError else Missing())  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match=r"mpi4py cannot be used(.|\n)*pip install \"refimpl\[mpi\]\""):
        parallel_job.world()


def test_the_mpiexec_of_another_mpi_is_noticed(alone: pytest.MonkeyPatch) -> None:
    """Every process would be alone, and print a text of its own."""

    class Alone:
        class COMM_WORLD:  # noqa: N801
            @staticmethod
            def Get_size() -> int:  # noqa: N802
                return 1

    alone.setenv("OMPI_COMM_WORLD_SIZE", "2")
    alone.setattr(parallel_job, "_mpi", lambda: Alone)
    with pytest.raises(errors.ConfigError, match=r"different MPIs(.|\n)*2 ranks(.|\n)*got: +1"):
        parallel_job.world()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("mitchell", "host", False), "no other arithmetic"),
        ((None, "smoke", False), "unknown transport"),
        ((None, "host", True), "low memory is for one process"),
    ],
)
def test_what_many_ranks_do_not_have_is_refused(given: Any, words: str) -> None:
    with pytest.raises(errors.ConfigError, match=words):
        parallel_job._check(*given)


def test_a_transport_needs_ranks() -> None:
    with pytest.raises(errors.ConfigError, match="nobody to exchange with"):
        console.opened("tang", "numpy", "float32", None, parallel=False, transport="nccl")
