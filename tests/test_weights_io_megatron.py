"""Megatron's shards: merged and split bit for bit, to any number of ranks; what does not fit together is refused."""

from __future__ import annotations

import itertools
import json
import pickletools
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weights_io
from refimpl import gpt2
from weights_io import megatron
from weights_io.checkpoint import Checkpoint
from weights_io.megatron import LAYOUT, Layout, find_shards, merge, open_shards, save_ranks, split
from weights_io.schemes import SCHEMES, from_canonical, to_canonical
from weights_io.schemes.scheme import SchemeError, info_of, same_bits

RECORDED = Path(__file__).parent.parent / "validation" / "recorded" / "cpm_megatron"
SCHEME = SCHEMES["megatron-cpm"]
HEADS = 12
QKV = "transformer.layers.0.attention.query_key_value.weight"


def _refused(kind: Any, *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _model(
    layers: int = 2, head: int = 1, inner: int = 24, vocab: int = 24, dtype: Any = np.float32, seed: int = 0
) -> Any:
    """Arbitrary bits under Megatron's names, with 12 heads."""
    rng = np.random.default_rng(seed)
    config = gpt2.GPT2Config(vocab, 5, HEADS * head, layers, HEADS, n_inner=inner)
    arrays = {}
    for name, shape in gpt2.GPT2Weights.shapes(config).items():
        raw = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
        arrays[name] = raw.view(dtype).reshape(shape)
    return {name: array.copy() for name, array in from_canonical(arrays, SCHEME).items()}


def _same(a: Any, b: Any) -> bool:
    return set(a) == set(b) and all(same_bits(np.asarray(a[name]), np.asarray(b[name])) for name in a)


def _parts(model: Any, ranks: int, root: str = "module/") -> list[dict[str, Any]]:
    """What the files of so many ranks hold."""
    return [{root + name: array.copy() for name, array in part.items()} for part in split(model, ranks, heads=HEADS)]


# --- the table --------------------------------------------------------------------------------------------------------------


def test_the_layout_of_every_tensor_of_the_scheme_is_known() -> None:
    assert set(LAYOUT) == {template.removeprefix("[|module/]") for template in SCHEME.table}


def test_layouts_follow_from_what_a_rank_computes() -> None:
    """A layer whose output is cut has its rows (out, in) and bias cut; one whose input is cut its columns, and a whole bias."""
    whole = {name for name, layout in LAYOUT.items() if layout is Layout.WHOLE}
    assert {name for name in LAYOUT if "norm" in name or "position" in name} < whole
    rest = whole - {name for name in LAYOUT if "norm" in name or "position" in name}
    assert rest == {"transformer.layers.{i}.attention.dense.bias", "transformer.layers.{i}.mlp.dense_4h_to_h.bias"}
    columns = {name for name, layout in LAYOUT.items() if layout is Layout.COLUMNS}
    assert columns == {name.replace("bias", "weight") for name in rest}


# --- merging and splitting --------------------------------------------------------------------------------------------------


@given(
    layers=st.integers(1, 3),
    head=st.integers(1, 2),
    factors=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dtype=st.sampled_from([np.float16, np.float32, ml_dtypes.bfloat16]),
    ranks=st.tuples(*[st.sampled_from([1, 2, 3, 4, 6, 12])] * 2),
    seed=st.integers(0, 9),
)
def test_splitting_and_merging_is_the_same_bit_for_bit(
    layers: int, head: int, factors: Any, dtype: Any, ranks: Any, seed: int
) -> None:
    """merge(split(x, m)) = x, and merge(split(merge(split(x, m)), n)) = x: from any number of ranks to any other."""
    x = _model(layers, head, 12 * factors[0], 12 * factors[1], dtype, seed)
    m, n = ranks
    parts = split(x, m, heads=HEADS)
    assert len(parts) == m
    merged = merge(parts)
    assert _same(merged, x)
    assert _same(merge(split(merged, n, heads=HEADS)), x)
    for made in (*parts, merged):
        for name in made:
            array, info = made[name], made.info(name)
            assert (info.name, array.shape, array.dtype, array.nbytes) == (name, info.shape, info.dtype, info.nbytes)
            assert not array.flags.writeable
    assert all(array.flags.writeable for array in x.values())


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("canonical", [False, True])
def test_tensors_are_written_where_they_belong_without_being_joined(canonical: bool, ranks: int) -> None:
    """Every element once, in either memory order; and what is checked on reading is checked."""
    parts = _parts(_model(dtype=np.float16), ranks)
    merged: Any = merge(parts)
    checkpoint = to_canonical(merged, SCHEME) if canonical else merged
    for name in checkpoint:
        for order in ("C", "F"):
            out: Any = np.zeros(checkpoint.info(name).shape, np.uint16, order=order)  # type: ignore[call-overload]
            times = np.zeros_like(out)

            def put(place: Any, array: Any, out: Any = out, times: Any = times) -> None:
                place[...] = array.view(np.uint16)
                begin = place.__array_interface__["data"][0] - out.__array_interface__["data"][0]
                np.ndarray(place.shape, np.uint16, times.reshape(-1, order="A"), begin, place.strides)[...] += 1

            checkpoint.read_into(name, out, put)
            assert np.array_equal(out, checkpoint[name].view(np.uint16)), name
            assert times.min() == times.max() == 1
        with _refused(weights_io.WeightsError, "another shape", "(2,"):
            checkpoint.read_into(name, np.empty((2, *checkpoint.info(name).shape), np.float16))
    if ranks > 1:
        parts[1]["module/position_embeddings.weight"].view(np.uint16)[0, 0] ^= 1
        with _refused(weights_io.FormatError, "differs between them", "ranks 0 and 1"):
            merged.read_into("position_embeddings.weight", np.empty((5, 12), np.float16))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_a_rank_holds_whole_heads(ranks: int) -> None:
    """By hand: rows of Q, K and V for the rank's heads, and the columns of the output projection that belong to them."""
    x = _model(head=2)
    d, width = 24, 24 // ranks
    for rank, part in enumerate(split(x, ranks, heads=HEADS)):
        own = range(rank * width, (rank + 1) * width)
        rows = [k * d + row for k in range(3) for row in own]
        assert same_bits(part[QKV], x[QKV][rows])
        bias = QKV.replace("weight", "bias")
        assert same_bits(part[bias], x[bias][rows])
        dense = "transformer.layers.1.attention.dense.weight"
        assert same_bits(np.ascontiguousarray(part[dense]), np.ascontiguousarray(x[dense][:, list(own)]))
        inner = "transformer.layers.1.mlp.dense_h_to_4h.bias"
        assert same_bits(part[inner], x[inner][list(own)])
        assert same_bits(part["word_embeddings.weight"], x["word_embeddings.weight"][list(own)])
        assert same_bits(part["position_embeddings.weight"], x["position_embeddings.weight"])
        for name, first in ((QKV, own[0] * d), (dense, own[0]), (inner, own[0]), ("position_embeddings.weight", 0)):
            assert part.info(name).offset == info_of(x, name).offset + 4 * first, name


def test_joining_query_key_value_as_it_lies_would_be_wrong() -> None:
    """The trap: two ranks' rows one after the other are Q0 K0 V0 Q1 K1 V1."""
    x = _model()
    parts = split(x, 2, heads=HEADS)
    naive = np.concatenate([part[QKV] for part in parts])
    assert not same_bits(naive, x[QKV])
    assert same_bits(merge(parts)[QKV], x[QKV])


@pytest.mark.parametrize("root", ["module/", "model/", ""])
def test_parameters_are_found_under_their_root(root: str) -> None:
    x = _model()
    merged = merge(_parts(x, 2, root))
    assert _same(merged, x)
    assert merged.format == "megatron (2 ranks)"
    assert merged.metadata == {"ranks": 2}


def test_what_lies_beside_the_parameters_is_left_out_and_listed() -> None:
    x = _model()
    parts = _parts(x, 2)
    parts[0]["torch_rng_state"] = np.zeros(4, np.uint8)
    parts[1]["optimizer/state/0/exp_avg"] = np.zeros(4)
    merged = merge(parts)
    assert _same(merged, x)
    assert merged.metadata == {"ranks": 2, "left_out": ["optimizer/state/0/exp_avg", "torch_rng_state"]}


def test_nothing_is_read_before_it_is_asked_for() -> None:
    read: list[tuple[int, str]] = []

    def watched(rank: int, part: dict[str, Any]) -> Checkpoint:
        infos = {name: info_of(part, name) for name in part}
        return Checkpoint("test", {}, infos, lambda info: read.append((rank, info.name)) or part[info.name])

    merged = merge([watched(rank, part) for rank, part in enumerate(_parts(_model(), 3))])
    ours = to_canonical(merged, SCHEME)
    again = split(merged, 2, heads=HEADS)
    assert read == []
    ours["blocks.0.attention_output.weight"]
    name = "transformer.layers.0.attention.dense.weight"
    assert read == [(rank, f"module/{name}") for rank in range(3)]
    read.clear()
    again[1][name]
    assert read == [(rank, f"module/{name}") for rank in range(3)]


def test_parts_of_a_tensor_are_not_taken_for_one_stored_twice() -> None:
    assert all(part.shared() == [] for part in split(_model(), 2, heads=HEADS))


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_a_replicated_tensor_that_differs_is_refused_when_it_is_read() -> None:
    parts = _parts(_model(), 3)
    name = "transformer.layers.1.attention.dense.bias"
    parts[2][f"module/{name}"] = parts[2][f"module/{name}"].copy()
    parts[2][f"module/{name}"].view(np.uint8)[5] ^= 1
    merged = merge(parts)
    assert merged[QKV].shape == (36, 12)
    with _refused(weights_io.FormatError, "differs between them [megatron.replicated]", name, "ranks 0 and 2 differ"):
        merged[name]


def test_nan_on_every_rank_is_no_difference() -> None:
    parts = _parts(_model(), 2)
    for part in parts:
        part["module/transformer.final_layernorm.bias"][:] = np.nan
    assert np.isnan(merge(parts)["transformer.final_layernorm.bias"]).all()


def test_ranks_with_different_tensors_are_refused() -> None:
    parts = _parts(_model(), 2)
    del parts[1][f"module/{QKV}"]
    parts[1]["module/transformer.layers.2.attention.dense.bias"] = np.zeros(12, np.float32)
    with _refused(
        SchemeError,
        "hold different tensors [megatron.names]",
        f"rank 1 lacks {QKV}",
        "only rank 1 has transformer.layers.2.attention.dense.bias",
    ):
        merge(parts)


def test_tensors_whose_layout_is_not_known_are_refused() -> None:
    parts = _parts(_model(), 2)
    for part in parts:
        part |= {"module/lm_head.weight": np.zeros(2), "module/transformer.layers.01.attention.dense.bias": np.zeros(2)}
    with _refused(
        SchemeError,
        "not known how some tensors lie",
        "[megatron.names]",
        "not in the table: lm_head.weight",
        "not in the table: transformer.layers.01.attention.dense.bias",
    ):
        merge(parts)
    with _refused(SchemeError, "there are no parameters under module"):
        merge([{"word_embeddings": np.zeros(2)}])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (QKV, lambda a: a[:-3], ("differ in shape or dtype", "(18, 12) float32 on every rank", "(15, 12)")),
        (QKV, lambda a: a.astype(np.float64), ("differ in shape or dtype", "float64")),
        ("transformer.final_layernorm.bias", lambda a: a[:, None], ("differ in shape or dtype", "(12, 1)")),
    ],
)
def test_parts_that_differ_in_shape_or_dtype_are_refused(name: str, change: Any, words: Any) -> None:
    parts = _parts(_model(), 2)
    parts[1][f"module/{name}"] = change(parts[1][f"module/{name}"])
    with _refused(weights_io.FormatError, *words):
        merge(parts)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (QKV, (17, 12), ("cannot be merged", "[Q; K; V]", "(17, 12)")),
        (QKV, (36,), ("cannot be merged", "(36,)")),
        ("transformer.layers.0.attention.dense.weight", (12,), ("cannot be merged", "2 axes", "(12,)")),
        ("transformer.layers.0.attention.dense.bias", (), ("cannot be merged", "1 axis", "()")),
    ],
)
def test_parts_with_the_wrong_axes_are_refused(name: str, shape: Any, words: Any) -> None:
    parts = _parts(_model(), 2)
    for part in parts:
        part[f"module/{name}"] = np.zeros(shape, np.float32)
    with _refused(weights_io.FormatError, words[0] + " [megatron.shapes]", *words[1:]):
        merge(parts)


def test_a_missing_last_rank_shows_in_the_shapes() -> None:
    parts = _parts(_model(), 3)
    with _refused(
        weights_io.FormatError,
        "do not make a whole matrix [megatron.shapes]",
        "(36, 12)",
        "(24, 12) from 2 ranks",
        "missing",
    ):
        merge(parts[:2])


def test_numbers_of_ranks_that_do_not_divide_are_refused_with_everything_they_do_not_divide() -> None:
    x = _model(layers=1, head=5, inner=18, vocab=23)
    with _refused(
        SchemeError,
        "does not divide into 5 ranks",
        "multiples of 5",
        "12 heads",
        "word_embeddings.weight: 23 rows",
        "dense_h_to_4h.weight: 18 rows",
        "dense_4h_to_h.weight: 18 columns",
    ) as caught:
        split(x, 5, heads=HEADS)
    assert len(caught.value.problems) == 5
    for wrong in (0, -1, 2.0, True, "2"):
        with _refused(weights_io.WeightsError, "number of ranks must be a whole number"):
            split(x, wrong, heads=HEADS)  # type: ignore[arg-type]


def test_thirds_that_do_not_divide_are_seen_by_themselves() -> None:
    with _refused(SchemeError, "does not divide into 3 ranks", f"{QKV}: 20 rows"):
        split({QKV: np.zeros((60, 20), np.float32)}, 3)


def test_heads_are_known_for_released_widths_and_may_be_given() -> None:
    x = _model(head=2)
    assert len(split(x, 8)) == 8  # width 24: nothing is known, and nothing is checked
    with _refused(SchemeError, "does not divide into 8 ranks", "12 heads"):
        split(x, 8, heads=HEADS)
    for wrong in (5, -1, 0, True, 2.0):
        with _refused(weights_io.WeightsError, "does not divide into the heads", "divides 24", repr(wrong)):
            split(x, 2, heads=wrong)  # type: ignore[arg-type]
    released = {
        QKV: np.zeros((3 * 768, 768), np.float16),
        "word_embeddings.weight": np.zeros((24, 768), np.float16),
    }
    assert len(split(released, 12)) == 12
    with _refused(SchemeError, "does not divide into 8 ranks", "12 heads"):
        split(released, 8)


# --- folders ----------------------------------------------------------------------------------------------------------------


def _touch(folder: Path, *ranks: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"mp_rank_{rank}_model_states.pt" for rank in ranks]
    for file in files:
        file.write_bytes(b"")
    return files


def test_shards_are_found_as_cpm_publishes_them(tmp_path: Path) -> None:
    files = _touch(tmp_path / "80000", "01", "00", "10", "02")
    expected = sorted(files)
    assert find_shards(tmp_path / "80000") == expected
    assert find_shards(tmp_path) == expected
    _touch(tmp_path / "70000", "00")
    with _refused(weights_io.WeightsError, "several folders hold shards", "latest_checkpointed", "70000, 80000"):
        find_shards(tmp_path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("80000\n")
    assert find_shards(tmp_path) == expected
    (tmp_path / "release").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
    with _refused(weights_io.FormatError, "without shards [megatron.tracker]", "release/mp_rank_00"):
        find_shards(tmp_path)
    released = _touch(tmp_path / "release", "00")
    assert find_shards(tmp_path) == released
    (tmp_path / "empty").mkdir()
    _touch(tmp_path / "empty" / "backup", "00")  # no name that a training gives
    assert find_shards(tmp_path / "empty") is None
    with _refused(weights_io.WeightsError, "the folder cannot be read", "NotADirectoryError"):
        find_shards(files[0])


@pytest.mark.parametrize("text", ["", "../80000", "/etc", "8e4", "-1", "80000 80000", "\u0668", "1" * 30, "x" * 10**6])
def test_a_tracker_names_a_folder_beside_it_or_is_refused(text: str, tmp_path: Path) -> None:
    _touch(tmp_path / "80000", "00")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    with _refused(weights_io.FormatError, "names no folder [megatron.tracker]", "a number, or release") as caught:
        find_shards(tmp_path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("ranks", [("01",), ("00", "02"), ("00", "000")])
def test_ranks_that_are_missing_or_double_are_refused(ranks: Any, tmp_path: Path) -> None:
    _touch(tmp_path, *ranks)
    with _refused(
        weights_io.FormatError, "not those of ranks 0, 1, ... [megatron.ranks]", "without a gap", "mp_rank_0"
    ):
        open_shards(tmp_path)


def test_folders_without_shards_are_refused(tmp_path: Path) -> None:
    with _refused(weights_io.WeightsError, "no shards in the folder", str(tmp_path)):
        open_shards(tmp_path)
    for files in ([], [tmp_path / "model.pt"]):
        with _refused(weights_io.FormatError, "not those of ranks"):
            open_shards(files)


# --- files ------------------------------------------------------------------------------------------------------------------

pytorch = pytest.mark.skipif(
    not (Path(weights_io.__file__).parent / "pytorch.py").exists(), reason="PyTorch files are not read yet"
)


@pytorch
@pytest.mark.parametrize("name", ["mp1", "mp2", "mp4", "mp1_mp2", "mp2_legacy"])
def test_recorded_shards_of_any_number_of_ranks_are_one_model(name: str) -> None:
    """Saved by CPM's own code with 2 ranks, changed by its own script to 1, 4, and 2 again: the same bits in each."""
    one = open_shards(RECORDED / "mp1")
    some = open_shards(RECORDED / name)
    assert some.metadata["ranks"] == len(find_shards(RECORDED / name) or [])
    assert _same(some, one)
    assert {array.dtype for array in some.values()} == {np.dtype(np.float16)}
    wide = open_shards(RECORDED / "mp2_float32")
    assert _same({n: array.astype(np.float32) for n, array in some.items()}, wide)
    assert "torch_rng_state" in some.metadata["left_out"]


@pytorch
@pytest.mark.parametrize("name", ["mp2", "mp4"])
def test_splitting_gives_what_cpm_itself_has_on_every_rank(name: str) -> None:
    files = find_shards(RECORDED / name) or []
    parts = split(open_shards(RECORDED / "mp1"), len(files), heads=4)
    for file, part in zip(files, parts, strict=True):
        with weights_io.open(file) as rank:
            theirs = {n.removeprefix("module/"): rank[n] for n in rank if n.startswith("module/")}
        assert _same(part, theirs)


@pytorch
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_written_shards_open_as_the_model_and_as_nested_files(ranks: int, tmp_path: Path) -> None:
    model = open_shards(RECORDED / "mp2")
    save_ranks(tmp_path / "new", model, ranks, heads=4, iteration=7)
    assert (tmp_path / "new" / "latest_checkpointed_iteration.txt").read_text() == "7\n"
    files = sorted(path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.pt"))
    assert files == [f"7/mp_rank_{rank:02d}_model_states.pt" for rank in range(ranks)]
    assert _same(open_shards(tmp_path / "new"), model)
    with weights_io.open(tmp_path / "new" / "7" / "mp_rank_00_model_states.pt") as rank:
        assert all(name.startswith("module/") for name in rank)
    with zipfile.ZipFile(tmp_path / "new" / "7" / "mp_rank_00_model_states.pt") as archive:
        pickle = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    texts = [value for opcode, value, _ in pickletools.genops(pickle) if opcode.name == "BINUNICODE"]
    assert texts[0] == "module"  # a dictionary in a dictionary, as Megatron's loader wants it
    assert QKV in texts
    assert not any("/" in text for text in texts)
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    with _refused(weights_io.WeightsError, "new folder"):
        save_ranks(tmp_path / "new", model, ranks, heads=4)
    with _refused(weights_io.WeightsError, "iteration must be a whole number from 1"):
        save_ranks(tmp_path / "other", model, ranks, heads=4, iteration=0)
    with _refused(weights_io.WeightsError, "does not divide into 3 ranks"):
        save_ranks(tmp_path / "other", model, 3, heads=4)
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


@pytorch
def test_files_that_say_how_many_they_are_are_believed(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "mp4", tmp_path / "mp4")
    files = find_shards(tmp_path / "mp4") or []
    with _refused(weights_io.FormatError, "not all there are [megatron.ranks]", "4", "2 files"):
        open_shards(files[:2])


@pytorch
def test_sources_of_all_ranks_are_closed() -> None:
    with open_shards(RECORDED / "mp2") as model:
        assert len(model._sources) >= 2
    with pytest.raises(weights_io.WeightsError, match="closed"):
        model[QKV]


def test_recorded_layout_is_the_table() -> None:
    """The table of the recording was found by comparing files; it says the same as ours."""
    readme = (RECORDED / "README.md").read_text()
    words = {
        "replicated": Layout.WHOLE,
        "axis 0, one block per rank": Layout.ROWS,
        "axis 1, one block per rank": Layout.COLUMNS,
        "axis 0, [Q_r; K_r; V_r] per rank": Layout.THIRDS,
    }
    rows = [line.strip("| \n").split(" | ") for line in readme.splitlines() if line.count("|") == 6 and "`" in line]
    found = {re.sub(r"layers\.\d+", "layers.{i}", row[0].strip("`")): row[-1] for row in rows if row[-1] in words}
    assert {name: words[rule] for name, rule in found.items()} == LAYOUT
    assert json.loads((RECORDED / "provenance.json").read_text())["model"]["num_attention_heads"] == 4
    assert megatron.RULES.keys() >= {
        f"megatron.{name}" for name in ("ranks", "names", "shapes", "replicated", "tracker")
    }


def test_every_pair_of_rank_counts_by_hand() -> None:
    x = _model()
    for m, n in itertools.permutations([1, 2, 3, 4], 2):
        direct, through = split(x, n, heads=HEADS), split(merge(split(x, m, heads=HEADS)), n, heads=HEADS)
        assert all(_same(a, b) for a, b in zip(direct, through, strict=True))
