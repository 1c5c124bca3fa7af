"""Vectors for programs in any language: streams and folders, what they refuse, and clients in C and JavaScript that pass and fail as they should."""

import io
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import weights_io
from refimpl import bert, gpt2
from refimpl.cli import app
from refimpl.errors import VectorError
from validation import components, conformance, tolerance, vectors
from validation.vectors import protocol

CLIENTS = Path(__file__).parent.parent / "examples" / "clients"


def _calls(stream):
    """A second reader of the protocol, written from its description alone: yields id, {name: value}."""
    source = io.BytesIO(stream)
    head = source.readline().decode().split()
    assert head[:2] == ["refimpl-vectors", "1"]
    for _ in range(int(head[4])):
        word, identifier, count = source.readline().decode().split()
        assert word == "case"
        arguments = {}
        for _ in range(int(count)):
            kind, name, *rest = source.readline().decode().rstrip("\n").split(" ", 3)
            if kind == "tensor":
                rank, *shape = map(int, rest[1].split(" "))
                assert rank == len(shape)
                dtype = np.dtype(tolerance.DTYPES.get(rest[0], rest[0]))
                data = source.read(int(np.prod(shape)) * dtype.itemsize)
                arguments[name] = np.frombuffer(data, dtype).reshape(shape).copy()
            else:
                read = {"int": int, "float": float, "string": str, "bool": {"true": True, "false": False}.__getitem__}
                arguments[name] = None if rest == ["none"] else read[rest[0]](rest[1])
        yield identifier, arguments
    assert source.readline().decode() == f"end {head[4]}\n"
    assert source.read() == b""


def _answer(identifier, array):
    shape = " ".join(map(str, (array.ndim, *array.shape)))
    return f"answer {identifier} {array.dtype.name} {shape}\n".encode() + array.tobytes()


def _emitted(op, dtype="float32"):
    out = io.BytesIO()
    protocol.emit_stream(op, dtype, vectors.load(op).select(dtype), out)
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "op",
    [
        *("softmax", "gelu", "attention", "favor_attention", "sparse_softmax_cross_entropy", "hierarchical_positions"),
        *("copy_labels", "copy_step", "copy_states", "copy_loss", "copy_beam_search"),
        *("rouge", "split_sentences", "match_sentences", "extend_embedding"),
        *("layer_norm.vjp", "favor_attention.vjp"),
    ],
)
def test_a_program_that_reads_the_stream_passes_with_the_definition(op, dtype):
    definition = components.component(op).definition
    replies = b"".join(
        _answer(identifier, definition(**arguments)) for identifier, arguments in _calls(_emitted(op, dtype))
    )
    chosen = [vector.id for vector in vectors.load(op).select(dtype)]
    report = conformance.judge_answers(op, dtype, protocol.read_stream(io.BytesIO(replies)), chosen)
    assert report.passed, str(report)


def test_streams_are_the_same_every_time():
    assert _emitted("attention") == _emitted("attention")


def test_a_missing_answer_and_a_skipped_one_fail():
    chosen = vectors.load("softmax").select("float32")
    definition = components.component("softmax").definition
    given_answers = {vector.id: definition(*vector.positional("float32")) for vector in chosen}
    ids = [vector.id for vector in chosen]
    assert conformance.judge_answers("softmax", "float32", given_answers, ids).passed
    skipped = protocol.read_stream(io.BytesIO(f"skip {ids[1]} too large for me\n".encode()))
    report = conformance.judge_answers("softmax", "float32", {**given_answers, **skipped}, ids)
    assert not report.passed
    assert "too large for me" in str(report)
    del given_answers[ids[0]]
    report = conformance.judge_answers("softmax", "float32", given_answers, ids)
    assert not report.passed
    assert report.rows[0].verdict.word == "not run"


def test_answers_to_questions_that_were_not_asked_are_refused():
    with pytest.raises(VectorError, match=r"not asked(.|\n)*softmax-1, (.|\n)*softmax-99999"):
        conformance.judge_answers("softmax", "float32", {"softmax-99999": np.zeros(3)}, ["softmax-1"])


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"hello\n", r"no line of a stream of answers(.|\n)*hello(.|\n)*nothing else to standard output"),
        (b"answer softmax-1 float32 1 2\n\0\0\0\0", r"ends within an answer(.|\n)*8 bytes(.|\n)*4"),
        (b"answer softmax-1 float31 1 2\n", r"no dtype and shape(.|\n)*float16, bfloat16(.|\n)*float31"),
        (b"answer softmax-1 float32 2 2\n", r"no dtype and shape(.|\n)*float32 2 2"),
        (b"answer softmax-1 float32 1 -2\n", r"no dtype and shape"),
        (b"answer softmax-1 float64 2 99999999999 99999999999\n", r"larger than any can be(.|\n)*1073741824 bytes"),
        (
            b"answer softmax-1 float32 0\n\0\0\0\0answer softmax-1 float32 0\n\0\0\0\0",
            r"answered twice(.|\n)*softmax-1",
        ),
        (b"answer softmax-1 float32 1 2", r"too long, or cut off"),
        (b"a" * 5000 + b"\n", r"too long, or cut off(.|\n)*4096"),
    ],
)
def test_streams_that_are_none_are_refused(stream, message):
    with pytest.raises(VectorError, match=message):
        protocol.read_stream(io.BytesIO(stream))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"answer ", b"skip ", b"x-1 ", b"float32 ", b"1 ", b"2 ", b"0\n", b"\n", b"\0" * 8]),
        )
    )
)
def test_whatever_comes_it_is_read_or_refused(parts):
    try:
        found = protocol.read_stream(io.BytesIO(b"".join(parts)))
    except VectorError:
        return
    assert all(isinstance(value, np.ndarray | str) for value in found.values())


# --- clients in other languages ---------------------------------------------------------------------------------------------------


def _compiled(source, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on this machine")
    (tmp_path / "client.c").write_text(source, "utf-8")
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "client", tmp_path / "client.c", "-lm"],
        check=True,
    )
    return [tmp_path / "client"]


def _script(source, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js (node) on this machine")
    (tmp_path / "client.mjs").write_text(source, "utf-8")
    return [node, tmp_path / "client.mjs"]


PLANTED = {
    "softmax.c": [
        ("expf(x[i] - largest)", "expf(x[i])"),
        ("x[i] /= sum", "x[i] /= sum + 1e-6f"),
        ("i < n; i++) sum", "i + 1 < n; i++) sum"),
    ],
    "softmax.mjs": [("Math.exp(value - largest)", "Math.exp(value)"), ("value / sum", "value / (sum + 1e-6)")],
}


@pytest.mark.parametrize("name", PLANTED)
def test_clients_pass_and_fail_with_a_planted_bug(name, tmp_path):
    make = _compiled if name.endswith(".c") else _script
    source = (CLIENTS / name).read_text("utf-8")
    assert len(source.splitlines()) < 60
    for right, wrong in [("", ""), *PLANTED[name]]:
        assert right in source
        ran = subprocess.run(
            make(source.replace(right, wrong) if right else source, tmp_path),
            input=_emitted("softmax"),
            capture_output=True,
            check=True,
        )
        ids = [vector.id for vector in vectors.load("softmax").select("float32")]
        report = conformance.judge_answers("softmax", "float32", protocol.read_stream(io.BytesIO(ran.stdout)), ids)
        assert report.passed == (not right), (right, str(report))


# --- folders and commands ---------------------------------------------------------------------------------------------------------


def _run(*arguments, **options):
    return CliRunner().invoke(app, list(arguments), **options)


@pytest.mark.parametrize("file", ["answers.safetensors", "answers.npz"])
def test_a_folder_is_emitted_answered_and_checked(tmp_path, file):
    folder = tmp_path / "run"
    assert _run("vectors", "emit", "layer_norm", "--out", str(folder), "--dtype", "float64").exit_code == 0
    listing = json.loads((folder / "cases.json").read_text("utf-8"))
    tensors = weights_io.open(folder / "inputs.safetensors")
    replies = {}
    for case in listing["cases"]:
        arguments = {
            name: tensors[given["tensor"]] if "tensor" in given else given["value"]
            for name, given in case["arguments"].items()
        }
        replies[case["id"]] = components.component("layer_norm").definition(**arguments)
    weights_io.save(folder / file, replies)
    result = _run("vectors", "check", str(folder), "--json")
    assert result.exit_code == 0, result.output
    assert (
        json.loads(result.stdout)["announced"] == listing["count"] == len(vectors.load("layer_norm").select("float64"))
    )
    replies.popitem()
    weights_io.save(folder / file, replies)
    result = _run("vectors", "check", str(folder))
    assert result.exit_code == 1
    assert "no answer was given" in result.stdout


@pytest.mark.parametrize("op", components.MODELS)
def test_the_folder_of_a_model_is_all_that_a_program_needs(op, tmp_path):
    """The answers come from the parameters in the folder; one of them changed, they fail."""
    protocol.emit_folder(op, "float32", vectors.load(op).select("float32"), tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "model.json").read_text("utf-8"))
    config = (gpt2.GPT2Config if op == "gpt2" else bert.BertConfig)(**settings)
    for changed in (False, True):
        named = dict(weights_io.open(tmp_path / "run" / "model.safetensors"))
        named["blocks.1.feed_forward_in.bias"] = named["blocks.1.feed_forward_in.bias"] + np.float32(changed) / 8
        answers = {
            v.id: components.model_logits(op, config, named, *v.positional("float32"), **v.params("float32"))
            for v in vectors.load(op).vectors
        }
        report = conformance.judge_answers(op, "float32", answers, answers)
        assert report.passed is not changed, report


def test_the_pipe_as_commands():
    emitted = _run("vectors", "emit", "logsumexp", "--stream").stdout_bytes
    assert emitted == _emitted("logsumexp")
    definition = components.component("logsumexp").definition
    replies = b"".join(_answer(identifier, definition(**arguments)) for identifier, arguments in _calls(emitted))
    result = _run("vectors", "check", "logsumexp", "--stream", input=replies)
    assert result.exit_code == 0, result.output
    assert "logsumexp, float32: conforms" in result.stdout
    wrong = replies[:-4] + struct.pack("<f", 1e9)
    result = _run("vectors", "check", "logsumexp", "--stream", input=wrong)
    assert result.exit_code == 1
    assert "outside" in result.stdout


def test_a_stream_of_one_dialect():
    chosen = [vector.id for vector in vectors.load("gelu").select("float32", "none")]
    emitted = _run("vectors", "emit", "gelu", "--stream", "--dialect", "none").stdout_bytes
    assert [identifier for identifier, _ in _calls(emitted)] == chosen


def test_the_listing_names_every_component():
    listed = json.loads(_run("vectors", "list", "--json").stdout)
    assert [each["op"] for each in listed] == vectors.names()
    assert all(each["by_dtype"]["float32"] > 0 and each["equation"] for each in listed)
    assert "favor_attention" in _run("vectors", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emit", "softmax"], "--out FOLDER or --stream"),
        (["emit", "sofmax", "--stream"], "no vectors of this name"),
        (["emit", "softmax", "--stream", "--dtype", "float8"], "unknown dtype"),
        (["check", "/nonexistent"], "holds no vectors"),
    ],
)
def test_commands_refuse_in_words(arguments, message):
    result = _run("vectors", *arguments)
    assert result.exit_code != 0
    assert message in f"{result.output}{result.exception}"


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path):
    (tmp_path / "answers.npz").write_bytes(b"")
    result = _run("vectors", "emit", "softmax", "--out", str(tmp_path))
    assert result.exit_code != 0
    assert "not empty" in str(result.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given["cases"].pop(), "calls have been lost"),
        (lambda given: given["cases"].__setitem__(1, given["cases"][0]), "calls have been lost, or are listed twice"),
        (lambda given: given.update(protocol=2), "another version"),
        (lambda given: given.pop("op"), "no list of calls"),
        (lambda given: given.update(cases=[1]), "no list of calls"),
    ],
    ids=["lost", "twice", "version", "no op", "no cases"],
)
def test_a_list_of_calls_that_is_not_as_it_was_emitted_is_refused(tmp_path, change, message):
    """What is asked for is read from the folder: a list that was cut must not make a run of fewer vectors pass."""
    chosen = vectors.load("softmax").select("float32")
    protocol.emit_folder("softmax", "float32", chosen, tmp_path / "run")
    weights_io.save(tmp_path / "run" / "answers.safetensors", {"softmax-1": np.zeros(1, np.float32)})
    listing = tmp_path / "run" / "cases.json"
    given = json.loads(listing.read_text("utf-8"))
    change(given)
    listing.write_text(json.dumps(given), "utf-8")
    with pytest.raises(VectorError, match=message):
        protocol.read_folder(tmp_path / "run")
    listing.write_text(json.dumps(given)[:-9], "utf-8")
    with pytest.raises(VectorError, match="no list of calls"):
        protocol.read_folder(tmp_path / "run")


@pytest.mark.parametrize("shape", ["3 0 99999999999 99999999999", "80 " + "1 " * 79 + "1"], ids=["empty", "axes"])
def test_shapes_that_no_array_has_are_refused(shape):
    with pytest.raises(VectorError, match="no answer has such a shape"):
        protocol.read_stream(io.BytesIO(f"answer softmax-1 float32 {shape}\n0000".encode()))


def test_a_folder_without_answers_and_one_with_two_are_refused(tmp_path):
    folder = tmp_path / "run"
    _run("vectors", "emit", "softmax", "--out", str(folder))
    for names in ([], ["answers.npz", "answers.safetensors"]):
        for name in names:
            (folder / name).write_bytes(b"")
        with pytest.raises(VectorError, match="missing, or there are several"):
            protocol.read_folder(folder)
