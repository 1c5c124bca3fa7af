"""Record model-parallel checkpoints of CPM-1-Generate, written and run by its own code, and what its model answers.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/cpm_megatron.py PATH_TO_CPM_CODE --out validation/recorded

PATH_TO_CPM_CODE is a checkout of TsinghuaAI/CPM-1-Generate at commit 3f816d1; nothing of it is copied. Writes
`cpm_megatron/` under `--out`:

* `mp2/`: two shards, float16, saved by its `utils.save_ds_checkpoint` from a model whose two ranks were filled each for
  itself, as the released folder is laid out; `mp2_float32/`: the same in float32; `mp2_legacy/`: the same in torch's
  legacy container with the location tags of two GPUs;
* `mp1/`, `mp4/`, `mp1_mp2/`: what its `change_mp.py` makes of them: 2 -> 1, 2 -> 4, and 1 -> 2;
* `answers.safetensors`: token ids and logits of the models loaded from these folders by its `load_checkpoint_model`, on
  1 and 2 processes (gloo), in float64 and in float32 (4 processes are run and compared too, and not kept);
* `README.md`: names, shapes per rank, and which tensors are split along which axis, found by comparing the files.

Five things that its code imports are replaced by stand-ins, because they need a GPU or are not at hand:

* apex's FusedLayerNorm is torch's LayerNorm;
* `deepspeed` says that it is not configured; its engine's `save_checkpoint` is written here after DeepSpeed 0.3: the same
  keys in the same order, `module` from the FP16_Module of the code, the client state of the code added; the counters
  and the scheduler's state are made up;
* `torch._six.inf`, and `data_utils.file_utils.cached_path`, which the model never calls;
* the tracker of CUDA generator states does nothing, and `torch.cuda.get_rng_state` gives made-up bytes.

Weights are random halves, so that float16 and float32 files hold the same values; biases and scales are far from 0 and 1.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import deterministic, to_array, write_answers, write_provenance
from torch import multiprocessing
from torch_files import Addresses, with_names

COMMAND = "python validation/oracles/cpm_megatron.py PATH_TO_CPM_CODE --out validation/recorded"
PACKAGES = ("torch", "numpy", "safetensors")
COMMIT = "3f816d13dd3db902ca7d30077098d7f91523812b"
SEED = 20201114
ITERATION = 80000
VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 64, 24, 2, 4, 32
PREFIX = 5
SHARD = "mp_rank_{:02d}_model_states.pt"
FOLDERS = {"mp2": 2, "mp2_float32": 2, "mp1": 1, "mp4": 4, "mp1_mp2": 2}


class StillTracker:
    """Stands in for the tracker of CUDA generator states."""

    def __init__(self, rank: int) -> None:
        self.states_ = {"model-parallel-rng": torch.arange(16, dtype=torch.uint8) + 100 + rank}

    def get_states(self) -> dict[str, torch.Tensor]:
        return dict(self.states_)

    def fork(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Engine:
    """Stands in for DeepSpeed's engine (0.3): `save_checkpoint` writes what it wrote."""

    def __init__(self, module: torch.nn.Module, rank: int, world: int) -> None:
        self.module, self.rank, self.world = module, rank, world

    def save_checkpoint(self, folder: str, tag: int, client_state: dict[str, Any]) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizer": None,
            "lr_scheduler": {"num_iters": ITERATION, "start_lr": 1.5e-4},
            "csr_tensor_module_names": set(),
            "skipped_steps": 12,
            "global_steps": ITERATION,
            "global_samples": ITERATION * 3072,
            "dp_world_size": 32,
            "mp_world_size": self.world,
        }
        state.update(client_state)
        target = Path(folder) / str(tag)
        target.mkdir(parents=True, exist_ok=True)
        torch.save(state, target / SHARD.format(self.rank))


def stand_ins() -> None:
    """Put the stand-ins where the code imports them from."""

    def module(name: str, **names: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        vars(made).update(names)
        sys.modules[name] = made
        return made

    module("apex")
    module("apex.normalization")
    module("apex.normalization.fused_layer_norm", FusedLayerNorm=torch.nn.LayerNorm)
    module("deepspeed", checkpointing=types.SimpleNamespace(is_configured=lambda: False))
    module("torch._six", inf=math.inf)
    module("data_utils")
    module("data_utils.file_utils", cached_path=None)
    torch.cuda.get_rng_state = lambda: torch.arange(16, dtype=torch.uint8)


def fill(model: torch.nn.Module, rank: int) -> None:
    """Fill the parameters with random halves: those marked model_parallel by rank, the others equal on all ranks."""
    for index, (name, weight) in enumerate(sorted(model.named_parameters())):
        split = bool(getattr(weight, "model_parallel", False))
        drawn = np.random.default_rng([SEED, index, rank if split else 99]).standard_normal(tuple(weight.shape))
        if "layernorm.weight" in name:
            value = 1.0 + 0.2 * drawn
        else:
            value = (0.2 if name.endswith("bias") else 0.3) * drawn
        weight.data.copy_(torch.from_numpy(value.astype(np.float16)))


def build(code: Path, rank: int, world: int, meeting: str) -> tuple[torch.nn.Module, Any]:
    """Start one rank of `world` and return its model, in evaluation mode, and the module `utils` of the code."""
    warnings.filterwarnings("ignore")
    deterministic()
    sys.path.insert(0, str(code))
    stand_ins()
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", world_size=world, rank=rank)
    import model
    import mpu
    import utils

    mpu.initialize_model_parallel(world)
    tracker = StillTracker(rank)
    mpu.transformer.get_cuda_rng_tracker = mpu.get_cuda_rng_tracker = lambda: tracker
    made = model.GPT2Model(
        num_layers=LAYERS,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        embedding_dropout_prob=0.1,
        attention_dropout_prob=0.1,
        output_dropout_prob=0.1,
        max_sequence_length=POSITIONS,
        checkpoint_activations=False,
        parallel_output=False,
    )
    return made.eval(), utils


def save_rank(rank: int, world: int, code: Path, meeting: str, half: Path, single: Path) -> None:
    """One rank of the run that saves: float32 first, then the float16 that FP16_Module makes of the same model."""
    made, utils = build(code, rank, world, meeting)
    import fp16

    fill(made, rank)
    for folder, wrap in ((single, lambda module: module), (half, fp16.FP16_Module)):
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        torch.manual_seed(SEED)
        args = argparse.Namespace(save=str(folder), no_save_rng=False)
        utils.save_ds_checkpoint(ITERATION, Engine(wrap(made), rank, world), args)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def answer_rank(
    rank: int, world: int, code: Path, meeting: str, folder: Path, ids: torch.Tensor, double: bool, out: Path
) -> None:
    """One rank of the run that answers: logits of the whole rows, and the same with a cache, token after token."""
    made, utils = build(code, rank, world, meeting)
    loaded = utils.load_checkpoint_model(made, argparse.Namespace(load=str(folder)))
    if loaded != ITERATION:
        raise RuntimeError(f"{folder.name}: loaded iteration {loaded}")
    made = made.double() if double else made.float()
    dtype = torch.float64 if double else torch.float32
    length = ids.shape[1]
    mask = torch.ones((1, 1, length, length), dtype=dtype).tril()
    positions = torch.arange(length)[None].expand_as(ids)
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, value: Any) -> None:
        caught.setdefault(name, (value[0] if isinstance(value, (list, tuple)) else value).clone())

    with torch.no_grad():
        hooks = []
        for index, layer in enumerate(made.transformer.layers):
            hooks.append(layer.register_forward_pre_hook(lambda _, given, i=index: keep(f"hidden_{i}", given)))
        last = made.transformer.layers[-1]
        hooks.append(last.register_forward_hook(lambda _, __, output: keep(f"hidden_{LAYERS}", output)))
        norm = made.transformer.final_layernorm
        hooks.append(norm.register_forward_hook(lambda _, __, output: keep("hidden_final", output)))
        logits, _ = made(ids, positions, mask)
        for hook in hooks:
            hook.remove()
        steps, past = made(ids[:, :PREFIX], positions[:, :PREFIX], mask[:, :, :PREFIX, :PREFIX], use_cache=True)
        rows = [steps]
        for place in range(PREFIX, length):
            here = slice(place, place + 1)
            step, past = made(
                ids[:, here], positions[:, here], mask[:, :, place, : place + 1], past_key_values=past, use_cache=True
            )
            rows.append(step)
    cached = float((torch.cat(rows, 1) - logits).abs().max())
    if not cached <= (1e-12 if double else 1e-4):
        raise RuntimeError(f"{folder.name}: cached decoding differs by {cached}")
    if rank == 0:
        torch.save({"logits": logits, **caught}, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run(target: Any, world: int, code: Path, work: Path, *rest: Any) -> None:
    """Run one process per rank; the ranks meet at a file of their own."""
    meeting = tempfile.mktemp(dir=work)  # a name that does not exist yet
    multiprocessing.spawn(target, (world, code, meeting, *rest), nprocs=world)


def change(code: Path, folder: Path, world: int, target: Path) -> None:
    """Run the unmodified change_mp.py, and move what it made to `target`."""
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # the default of its time
    command = [sys.executable, str(code / "change_mp.py"), str(folder), str(world)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    shutil.move(f"{folder}_MP{world}", target)


def read_shards(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / str(ITERATION)).iterdir())
    return [torch.load(path, weights_only=False, map_location="cpu") for path in paths]


def save_legacy(folder: Path, target: Path) -> None:
    """Save the shards again in torch's legacy container, as from the GPU of their rank."""
    (target / str(ITERATION)).mkdir(parents=True)
    shutil.copy(folder / "latest_checkpointed_iteration.txt", target)
    for rank, shard in enumerate(read_shards(folder)):
        place = f"cuda:{rank}"
        save = with_names(torch.serialization._legacy_save, str=Addresses(), location_tag=lambda _, place=place: place)
        with (target / str(ITERATION) / SHARD.format(rank)).open("wb") as file:
            save(shard, file, torch.serialization.pickle, 2)


def joined(name: str, parts: list[torch.Tensor], whole: torch.Tensor) -> str:
    """Return how the ranks' parts make the whole, found by trying; exactly one way may fit."""
    ways = {"replicated": all(torch.equal(part, whole) for part in parts)}
    if parts[0].shape[0] * len(parts) == whole.shape[0]:
        ways["axis 0, one block per rank"] = torch.equal(torch.cat(parts, 0), whole)
        if parts[0].shape[0] % 3 == 0:
            thirds = [part.chunk(3, 0) for part in parts]
            order = torch.cat([third[which] for which in range(3) for third in thirds], 0)
            ways["axis 0, [Q_r; K_r; V_r] per rank"] = torch.equal(order, whole)
    if whole.dim() == 2 and parts[0].shape[1] * len(parts) == whole.shape[1]:
        ways["axis 1, one block per rank"] = torch.equal(torch.cat(parts, 1), whole)
    found = [way for way, fits in ways.items() if fits]
    if len(found) != 1:
        raise RuntimeError(f"{name}: fits {found}")
    return found[0]


def compare(folder: Path) -> dict[str, tuple[str, list[list[int]]]]:
    """Return for every tensor its rule and its shape for 1, 2 and 4 ranks, and check that all folders agree bit by bit."""
    shards = {name: [shard["module"] for shard in read_shards(folder / name)] for name in [*FOLDERS, "mp2_legacy"]}
    whole = shards["mp1"][0]
    rules = {}
    for name, value in whole.items():
        found = {joined(name, [shard[name] for shard in shards[key]], value) for key in ("mp2", "mp4")}
        if len(found) != 1:
            raise RuntimeError(f"{name}: two ranks and four ranks are split differently: {found}")
        rules[name] = (found.pop(), [list(shards[key][0][name].shape) for key in ("mp1", "mp2", "mp4")])
        for rank in range(2):
            half = shards["mp2"][rank][name]
            if half.dtype != torch.float16 or shards["mp2_float32"][rank][name].dtype != torch.float32:
                raise RuntimeError(f"{name}: unexpected dtype")
            for other in ("mp1_mp2", "mp2_legacy"):
                if not torch.equal(shards[other][rank][name], half):
                    raise RuntimeError(f"{name}: {other} differs from mp2")
            if not torch.equal(shards["mp2_float32"][rank][name], half.float()):
                raise RuntimeError(f"{name}: mp2_float32 differs from mp2")
    return rules


def top_level(shard: dict[str, Any]) -> list[str]:
    """Return a line on every key of a shard beside `module`."""
    lines = []
    for key, value in shard.items():
        kind = "absent (None)" if value is None else type(value).__name__
        if isinstance(value, torch.Tensor):
            kind = f"{value.dtype} of shape {list(value.shape)}"
        lines.append(f"| `{key}` | {kind} |")
    return lines


def storage_lines(folder: Path) -> list[str]:
    """Return a line for every split folder: bytes of the tensors, and of the storages that the first file holds."""
    lines = []
    for name in [*FOLDERS, "mp2_legacy"]:
        module = read_shards(folder / name)[0]["module"]
        used = sum(value.numel() * value.element_size() for value in module.values())
        held = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in module.values()}
        views = sum(value.storage_offset() > 0 or not value.is_contiguous() for value in module.values())
        last = read_shards(folder / name)[-1]["module"]
        later = sum(value.storage_offset() > 0 or not value.is_contiguous() for value in last.values())
        lines.append(f"| `{name}` | {type(module).__name__} | {used} | {sum(held.values())} | {views} | {later} |")
    return lines


def write_readme(folder: Path, rules: dict[str, tuple[str, list[list[int]]]]) -> None:
    shards = {name: read_shards(folder / name)[0] for name in ("mp2", "mp1")}
    lines = [
        "# CPM-1-Generate, model-parallel checkpoints",
        "",
        "Written by `validation/oracles/cpm_megatron.py`, which says how. Layout of a folder, as released:",
        f"`latest_checkpointed_iteration.txt` (`{ITERATION}`) and `{ITERATION}/mp_rank_RR_model_states.pt`, one per rank.",
        f"Model: vocabulary {VOCABULARY}, width {WIDTH}, {LAYERS} layers, {HEADS} heads, {POSITIONS} positions; layer norm",
        "with eps 1e-5; the head is the transposed embedding and is not in the file.",
        "",
        "## Tensors (key `module`)",
        "",
        "Rule: how the ranks' tensors make the one of a single rank. It was found by comparing the files of `mp1` with those",
        "of `mp2` and of `mp4`; for every tensor exactly one rule fits.",
        "",
        "| name | 1 rank | each of 2 | each of 4 | rule |",
        "|---|---|---|---|---|",
        *(f"| `{name}` | {one} | {two} | {four} | {rule} |" for name, (rule, (one, two, four)) in rules.items()),
        "",
        "`[Q_r; K_r; V_r]`: the rows of a rank are its queries, its keys, its values. So concatenating the ranks of two gives",
        "`Q0 K0 V0 Q1 K1 V1`, which has to be reordered to `Q0 Q1 K0 K1 V0 V1`. Weights are (outputs, inputs).",
        "",
        "## Other keys",
        "",
        "In order, as `mp2` has them (`change_mp.py` keeps the keys, and sets `optimizer` and `csr_tensor_module_names` to",
        "None):",
        "",
        "| key | value |",
        "|---|---|",
        *top_level(shards["mp2"]),
        "",
        "## Views",
        "",
        "`change_mp.py` saves slices without copying them, and torch saves whole storages. After a split, every shard holds",
        "the storages of all of them, offsets are not zero, and column slices are not contiguous:",
        "",
        "| folder | type of `module` | bytes of tensors, rank 0 | bytes of storages | views, rank 0 | views, last rank |",
        "|---|---|---|---|---|---|",
        *storage_lines(folder),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


WHAT = {
    "mp2": "two shards, float16, saved by the code (utils.save_ds_checkpoint, FP16_Module)",
    "mp2_float32": "the same values in float32",
    "mp2_legacy": "the shards of mp2 in torch's legacy container, location tags cuda:0 and cuda:1, made-up storage keys",
    "mp1, mp4": "what change_mp.py makes of mp2",
    "mp1_mp2": "what change_mp.py makes of mp1: equal to mp2 bit by bit",
    "ids": f"two rows of {POSITIONS} token ids; positions 0, 1, ..., causal mask",
    "logits_mpN": "float64 logits of N = 1, 2 processes, which loaded mpN with the code's load_checkpoint_model",
    "logits_mpN_float32": "the same computed in float32, widened",
    "hidden_i": "float64, 1 process: residual stream before block i; i = number of blocks: after the last",
    "hidden_final": "float64, 1 process: after the final layer norm; logits = hidden_final @ embedding.T",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", type=Path, help="checkout of CPM-1-Generate at commit 3f816d1")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives cpm_megatron")
    given = parser.parse_args()
    code, folder = given.code.resolve(), given.out.resolve() / "cpm_megatron"
    shutil.rmtree(folder, ignore_errors=True)
    deterministic()
    ids = torch.from_numpy(np.random.default_rng([SEED, 1000]).integers(0, VOCABULARY, (2, POSITIONS)))
    ids[0, :2] = torch.tensor([0, VOCABULARY - 1])
    tensors = {"ids": ids}
    distances = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run(save_rank, 2, code, work, work / "mp2", work / "mp2_float32")
        for made in ("mp2", "mp2_float32"):
            (work / made / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))
        change(code, work / "mp2", 1, work / "mp1")
        change(code, work / "mp2", 4, work / "mp4")
        change(code, work / "mp1", 2, work / "mp1_mp2")
        save_legacy(work / "mp2", work / "mp2_legacy")
        for made in [*FOLDERS, "mp2_legacy"]:
            shutil.copytree(work / made, folder / made)
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        for world in (1, 2, 4):
            for double in (True, False):
                out = work / "answers.pt"
                run(answer_rank, world, code, work, folder / f"mp{world}", ids, double, out)
                found = torch.load(out)
                tensors[f"logits_mp{world}{'' if double else '_float32'}"] = found["logits"]
                if world == 1 and double:
                    tensors |= {key: value for key, value in found.items() if key != "logits"}
    for key, value in tensors.items():
        if key.startswith("logits") and key != "logits_mp1":
            distances[f"{key} - logits_mp1"] = float((value.double() - tensors["logits_mp1"]).abs().max())
    kept = {key: value for key, value in tensors.items() if "mp4" not in key}
    write_answers(folder, {key: to_array(value) for key, value in kept.items()})
    write_readme(folder, compare(folder))
    facts = {
        "oracle": f"CPM-1-Generate at {COMMIT}, its own model, saving, loading and change_mp.py, CPU, gloo",
        "stand_ins": "apex layer norm, deepspeed engine, torch._six, data_utils.file_utils, CUDA generator states",
        "seed": SEED,
        "model": {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "num_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "layernorm_epsilon": 1e-5,
        },
        "what": WHAT,
        "context": {
            "max_abs_difference": distances,
            "logits_standard_deviation": float(tensors["logits_mp1"].std()),
            "cached decoding": f"prefix of {PREFIX}, then one token at a time: within 1e-12 of the logits in float64",
        },
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
