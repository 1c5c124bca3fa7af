"""Record what Hugging Face transformers answers for two small random GPT-2 models, in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/transformers_gpt2.py --out validation/recorded

Writes three folders under `--out`, each with `model/` (a Hugging Face folder, float32) and `provenance.json`:

* `gpt2_tiny`: 4 layers, tied output head; logits, padding, hidden states, decoding, logits warpers;
* `gpt2_tiny_untied`: 2 layers, own output head, inner width not 4 times the width; logits, padding, hidden states;
* `gpt2_tiny_sharded`: the model of `gpt2_tiny` saved in several files with an index; no answers of its own.

The float32 weights are widened exactly and everything after that is float64, with eager attention. One thing in the
library stands in the way: `_sample` and `_beam_search` convert the logits to float32 before they choose and score.
`Float64GPT2` therefore runs the library's own code of these two functions with `torch.float32` read as `torch.float64`;
the unmodified library is run as well, its scores are recorded beside the others, and its sequences must be the same.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from recording import Arrays, deterministic, to_array, write_answers, write_provenance
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import utils as generation
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

COMMAND = "python validation/oracles/transformers_gpt2.py --out validation/recorded"
PACKAGES = ("torch", "transformers", "safetensors", "numpy")
SEED = 20201112
TINY = {
    "vocab_size": 61,
    "n_positions": 32,
    "n_embd": 24,
    "n_layer": 4,
    "n_head": 3,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}
UNTIED = {**TINY, "n_layer": 2, "n_inner": 40, "tie_word_embeddings": False}
SHARD_SIZE = "45KB"
PAD = 0
ROW_LENGTHS = (20, 13, 1)
GREEDY_LENGTHS = (1, 4, 7, 12, 20)
GREEDY_NEW = 12
BEAM_LENGTHS = (1, 3, 9, 24)
BEAM_NEW = 8
BEAMS = 4
LENGTH_PENALTIES = (0.0, 1.0, 2.0)
TEMPERATURE = 0.7
TOP_K = (1, 5, 61, 100)
TOP_P = (0.1, 0.5, 0.9, 1.0)
CHAINS = ((5, 0.9), (20, 0.5))


class Float64Torch:
    """The module `torch`, except that its float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def read_as_float64(function: FunctionType) -> FunctionType:
    """Return the library's own function, its code untouched, with every `torch.float32` in it read as float64."""
    if not {"float32", "float"} & set(function.__code__.co_names):
        raise RuntimeError(f"{function.__name__}: names no float32; is this another version of transformers?")
    names = {**vars(generation), "torch": Float64Torch()}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class Float64GPT2(GPT2LMHeadModel):
    """GPT2LMHeadModel whose decoding keeps float64 scores; the forward pass is the library's, untouched."""

    _sample = read_as_float64(generation.GenerationMixin._sample)
    _beam_search = read_as_float64(generation.GenerationMixin._beam_search)


def random_model(settings: dict[str, Any], rng: np.random.Generator) -> GPT2LMHeadModel:
    """Return a float32 model whose every parameter is far from its initial value: none can be left out unnoticed."""
    model = GPT2LMHeadModel(GPT2Config(**settings))
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = rng.standard_normal(tuple(weight.shape))
            if name.endswith("bias"):
                value = 0.2 * drawn
            elif ".ln_" in name:
                value = 1.0 + 0.2 * drawn
            else:
                value = 0.3 * drawn
            weight.copy_(torch.from_numpy(value.astype(np.float32)))
    return model.eval()


def load(folder: Path, kind: type[GPT2LMHeadModel], dtype: torch.dtype) -> GPT2LMHeadModel:
    """Read the folder just written; float32 weights widen to float64 exactly. No generation defaults of its own."""
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    model.generation_config = GenerationConfig()
    model.config.eos_token_id = model.config.bos_token_id = None
    return model


def padded(rows: list[np.ndarray], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths as (ids, mask); the padding id is 0 and the mask is 1 on real tokens."""
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), PAD), np.zeros((len(rows), width), dtype=np.int64)
    for row, values in enumerate(rows):
        place = slice(width - len(values), width) if side == "left" else slice(0, len(values))
        ids[row, place], mask[row, place] = values, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def positions_from_mask(mask: torch.Tensor) -> torch.Tensor:
    """Positions as `generate` makes them: cumulative sum of the mask minus one, and 0 where the mask is 0."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)


def hidden_states(model: GPT2LMHeadModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Residual stream of one row caught by hooks: embedding sum, after every block, and after the final layer norm."""
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, tensor: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        caught[name] = (tensor[0] if isinstance(tensor, tuple) else tensor)[0].clone()

    body = model.transformer
    hooks = [body.h[0].register_forward_pre_hook(lambda _, inputs: keep("hidden_0", inputs))]
    for index, block in enumerate(body.h, start=1):
        hooks.append(block.register_forward_hook(lambda _, __, output, i=index: keep(f"hidden_{i}", output)))
    hooks.append(body.ln_f.register_forward_hook(lambda _, __, output: keep("hidden_final", output)))
    model(ids)
    for hook in hooks:
        hook.remove()
    return caught


def forward_inputs(rng: np.random.Generator, vocab: int) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(rng.integers(0, vocab, (2, 20)))
    rows = [rng.integers(1, vocab, length) for length in ROW_LENGTHS]
    left_ids, left_mask = padded(rows, "left")
    right_ids, right_mask = padded(rows, "right")
    return {
        "ids": ids,
        "left_ids": left_ids,
        "left_mask": left_mask,
        "left_positions": positions_from_mask(left_mask),
        "right_ids": right_ids,
        "right_mask": right_mask,
    }


def forward_answers(model: GPT2LMHeadModel, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    left = model(given["left_ids"], attention_mask=given["left_mask"], position_ids=given["left_positions"])
    return {
        "logits": model(given["ids"]).logits,
        "left_logits": left.logits,
        "right_logits": model(given["right_ids"], attention_mask=given["right_mask"]).logits,
    }


def generate(
    model: GPT2LMHeadModel, ids: torch.Tensor, new: int, eos: int | None, mask: torch.Tensor, **settings: Any
) -> Any:
    """Call `generate` with nothing left to defaults that matter; `eos=None` never stops before `new` tokens."""
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=eos,
        pad_token_id=PAD if eos is None else eos,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    return model.generate(ids, attention_mask=mask, generation_config=config)


def same(name: str, ours: torch.Tensor, library: torch.Tensor) -> torch.Tensor:
    """Return the float64 sequences, checked against the unmodified library, which scores in float32."""
    if not torch.equal(ours, library):
        raise RuntimeError(f"{name}: float32 and float64 scores choose different tokens; draw other prompts")
    return ours


def smallest_gap(result: Any) -> float:
    """Return the smallest distance between the best and the second best score over all steps and rows."""
    best = torch.stack([score.topk(2).values for score in result.scores])
    return float((best[..., 0] - best[..., 1]).min())


def greedy_answers(
    exact: GPT2LMHeadModel, library: GPT2LMHeadModel, rng: np.random.Generator
) -> tuple[dict[str, torch.Tensor], float]:
    """Greedy decoding without a stop, with a stop on the path, and of a left-padded batch whose rows stop apart."""
    answers: dict[str, torch.Tensor] = {}
    gaps = []

    def run(name: str, ids: torch.Tensor, eos: int | None, mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = torch.ones_like(ids) if mask is None else mask
        result = generate(exact, ids, GREEDY_NEW, eos, mask)
        other = generate(library, ids, GREEDY_NEW, eos, mask)
        gaps.append(smallest_gap(result))
        return same(name, result.sequences, other.sequences)

    stops: list[tuple[int, int, int]] = []
    for index, length in enumerate(GREEDY_LENGTHS):
        prompt = torch.from_numpy(rng.integers(1, TINY["vocab_size"], (1, length)))
        path = run(f"greedy{index}", prompt, None)
        answers[f"greedy{index}_prompt"], answers[f"greedy{index}_sequence"] = prompt[0], path[0]
        new = path[0, length:].tolist()
        if len(new) != GREEDY_NEW:
            raise RuntimeError(f"greedy{index}: stopped after {len(new)} tokens without an end token")
        stops += [(new.index(token), -index, token) for token in set(new) if 2 <= new.index(token) <= GREEDY_NEW - 4]
    _, index, eos = max(stops)
    answers["greedy_eos_prompt"], answers["greedy_eos_id"] = answers[f"greedy{-index}_prompt"], torch.tensor(eos)
    answers["greedy_eos_sequence"] = run("greedy_eos", answers["greedy_eos_prompt"][None], eos)[0]

    ids, mask = padded([rng.integers(1, TINY["vocab_size"], length) for length in ROW_LENGTHS], "left")
    paths = run("greedy_batch", ids, None, mask)
    new = paths[:, ids.shape[1] :].tolist()
    eos = max(new[0], key=lambda token: (-abs(new[0].index(token) - 4), -sum(token in row for row in new[1:]), -token))
    answers |= {"greedy_batch_ids": ids, "greedy_batch_mask": mask, "greedy_batch_sequences": paths}
    answers["greedy_batch_eos_id"] = torch.tensor(eos)
    answers["greedy_batch_eos_sequences"] = run("greedy_batch_eos", ids, eos, mask)
    return answers, min(gaps)


def beam(
    model: GPT2LMHeadModel, ids: torch.Tensor, mask: torch.Tensor, eos: int | None, penalty: float, early: bool
) -> Any:
    options = {"num_return_sequences": BEAMS, "length_penalty": penalty, "early_stopping": early}
    return generate(model, ids, BEAM_NEW, eos, mask, num_beams=BEAMS, **options)


def generated_lengths(result: Any) -> torch.Tensor:
    """Return the number of generated tokens of every hypothesis, its end token included."""
    return (result.beam_indices >= 0).sum(-1)


def telling_eos(model: GPT2LMHeadModel, prompt: torch.Tensor) -> int:
    """Return the token id that, made the end token, makes the settings answer most differently.

    Candidates are the tokens that beams without an end token go through; most distinct answers over the settings, then
    most distinct hypothesis lengths, then the smallest id.
    """
    mask = torch.ones_like(prompt)
    free = beam(model, prompt, mask, None, 1.0, False).sequences[:, prompt.shape[1] :]
    found = []
    for eos in sorted(set(free.flatten().tolist())):
        runs = [
            beam(model, prompt, mask, eos, *setting) for setting in itertools.product(LENGTH_PENALTIES, (False, True))
        ]
        lengths = [tuple(generated_lengths(run).tolist()) for run in runs]
        answers = {tuple(map(tuple, run.sequences.tolist())) for run in runs}
        found.append((len(answers), len({length for row in lengths for length in row}), -eos))
    return -max(found)[2]


def beam_answers(
    exact: GPT2LMHeadModel, library: GPT2LMHeadModel, rng: np.random.Generator
) -> tuple[dict[str, torch.Tensor], float]:
    answers: dict[str, torch.Tensor] = {}
    apart = []

    def run(name: str, ids: torch.Tensor, eos: int, penalty: float, early: bool, mask: torch.Tensor) -> None:
        result = beam(exact, ids, mask, eos, penalty, early)
        other = beam(library, ids, mask, eos, penalty, early)
        name = f"{name}_lp{penalty:g}_early_{str(early).lower()}"
        answers[f"{name}_sequences"] = same(name, result.sequences, other.sequences)
        answers[f"{name}_scores"] = result.sequences_scores
        answers[f"{name}_scores_float32"] = other.sequences_scores
        answers[f"{name}_lengths"] = generated_lengths(result)
        apart.append(float((result.sequences_scores - other.sequences_scores).abs().max()))

    for index, length in enumerate(BEAM_LENGTHS):
        prompt = torch.from_numpy(rng.integers(1, TINY["vocab_size"], (1, length)))
        eos = telling_eos(exact, prompt)
        answers[f"beam{index}_prompt"], answers[f"beam{index}_eos_id"] = prompt[0], torch.tensor(eos)
        for penalty, early in itertools.product(LENGTH_PENALTIES, (False, True)):
            run(f"beam{index}", prompt, eos, penalty, early, torch.ones_like(prompt))

    ids, mask = padded([rng.integers(1, TINY["vocab_size"], length) for length in ROW_LENGTHS], "left")
    eos = telling_eos(exact, ids[:1])
    answers |= {"beam_batch_ids": ids, "beam_batch_mask": mask, "beam_batch_eos_id": torch.tensor(eos)}
    for early in (False, True):
        run("beam_batch", ids, eos, 1.0, early, mask)
    return answers, max(apart)


def warp_logits(rng: np.random.Generator, vocab: int) -> torch.Tensor:
    """Five rows: plain; rounded to halves (many ties); all equal; magnitudes up to 700; ties at ranks 1 and 5."""
    rows = 2.0 * rng.standard_normal((5, vocab))
    rows[1] = np.round(2 * rows[1]) / 2
    rows[2] = 1.25
    rows[3] = np.where(rng.random(vocab) < 0.5, -1, 1) * rng.uniform(600, 700, vocab)
    order = np.argsort(rows[4])[::-1]
    rows[4, order[:3]] = 5.0
    rows[4, order[4:8]] = rows[4, order[4]]
    return torch.from_numpy(rows)


def warp_answers(logits: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
    """Probabilities after each warper, and the smallest distance of a cumulative probability from the cut of top-p."""
    ids = torch.zeros((len(logits), 1), dtype=torch.int64)
    warpers: dict[str, LogitsProcessorList] = {
        f"temperature_{TEMPERATURE:g}": LogitsProcessorList([TemperatureLogitsWarper(TEMPERATURE)]),
        **{f"top_k_{k}": LogitsProcessorList([TopKLogitsWarper(k)]) for k in TOP_K},
        **{f"top_p_{p:g}": LogitsProcessorList([TopPLogitsWarper(p)]) for p in TOP_P},
    }
    for k, p in CHAINS:
        steps = [TemperatureLogitsWarper(TEMPERATURE), TopKLogitsWarper(k), TopPLogitsWarper(p)]
        warpers[f"chain_{TEMPERATURE:g}_{k}_{p:g}"] = LogitsProcessorList(steps)
    answers = {"warp_logits": logits}
    for name, warper in warpers.items():
        warped = warper(ids, logits)
        kept = warped > -torch.inf
        lowest = torch.where(kept, logits, torch.inf).min(-1, keepdim=True).values
        answers[f"warp_{name}"] = warped.softmax(-1)
        answers[f"warp_{name}_defined"] = (kept == (logits >= lowest)).all(-1)
    margins = []
    for before, p in [(logits, p) for p in TOP_P if p < 1] + [
        (LogitsProcessorList([TemperatureLogitsWarper(TEMPERATURE), TopKLogitsWarper(k)])(ids, logits), p)
        for k, p in CHAINS
    ]:
        cumulative = before.sort(stable=True).values.softmax(-1).cumsum(-1)
        margins.append(float((cumulative - (1 - p)).abs().min()))
    return answers, min(margins)


WHAT = {
    "ids, logits": "two rows of 20 tokens, no mask, positions 0..19",
    "left_ids, left_mask, left_positions, left_logits": (
        f"rows of lengths {ROW_LENGTHS} padded on the left with id {PAD}; positions cumsum(mask) - 1, and 0 where the "
        "mask is 0; compare where left_mask is 1: a padded query sees no key, and eager attention averages ALL keys"
    ),
    "right_ids, right_mask, right_logits": (
        "the same rows padded on the right; positions 0..19 for every row; compare where right_mask is 1"
    ),
    "hidden_0": "row 0 of ids: token embedding + position embedding (input of block 0), shape (length, width)",
    "hidden_i, i = 1..n_layer": "row 0 of ids: residual stream after block i - 1, before any further layer norm",
    "hidden_final": "row 0 of ids: after the final layer norm ln_f; logits = hidden_final @ head.T",
}
WHAT_DECODING = {
    "greedyN_prompt, greedyN_sequence": f"greedy decoding, {GREEDY_NEW} new tokens, no end token; prompt + new",
    "greedy_eos_prompt, greedy_eos_id, greedy_eos_sequence": (
        "one of the greedy prompts again, stopped by an end token on its path; the end token is part of the sequence"
    ),
    "greedy_batch_ids, greedy_batch_mask, greedy_batch_sequences": (
        f"left-padded batch, row lengths {ROW_LENGTHS}, {GREEDY_NEW} new tokens, no end token; positions from the mask"
    ),
    "greedy_batch_eos_id, greedy_batch_eos_sequences": (
        "the same batch with an end token; a row that has ended is filled with the end token until the last row ends"
    ),
    "beamN_prompt, beamN_eos_id": f"prompt and end token of a search with {BEAMS} beams, at most {BEAM_NEW} new tokens",
    "..._lpP_early_E_sequences": (
        f"the {BEAMS} returned hypotheses, best first, prompt included, with length_penalty P and early_stopping E; "
        "filled with the end token after the end; as wide as the longest"
    ),
    "..._lpP_early_E_scores": "float64: sum of log-probabilities / lengths ** P",
    "..._lpP_early_E_scores_float32": "the same from the unmodified library, which scores in float32 (values widened)",
    "..._lpP_early_E_lengths": "generated tokens of each hypothesis, its end token included",
    "beam_batch_ids, beam_batch_mask, beam_batch_eos_id, beam_batch_lp1_early_E_...": (
        f"the same for a left-padded batch of {len(ROW_LENGTHS)} prompts; {BEAMS} rows of answers per prompt, in order"
    ),
    "warp_logits": "rows: plain; many ties; all equal; magnitudes 600..700; a tie of ranks 1-3 and one of ranks 5-8",
    "warp_temperature_T, warp_top_k_K, warp_top_p_P": "softmax after the one warper, applied to warp_logits",
    "warp_chain_T_K_P": "softmax after temperature T, then top-k K, then top-p P",
    "warp_..._defined": "1 for rows in which equal logits were all kept or all removed, 0 where a tie was split",
}
RULES = {
    "in full": "validation/recorded/README.md",
    "beam length": "score / (generated tokens, the end token included, the prompt not) ** length_penalty",
    "beam end": "completes a hypothesis only among the best num_beams of 2 * num_beams candidates, else it is dropped",
    "beam stop": (
        "early_stopping true: when num_beams hypotheses are complete; false: when moreover the best open score divided "
        "by its present length ** length_penalty is not above the worst complete score; else at the token limit"
    ),
    "beam ties": "torch.topk, whose order of equal scores is not defined; no equal scores occur here",
    "greedy ties": "torch.argmax: the lowest id; no equal logits occur here",
    "top-k ties": "everything equal to the k-th value stays, so more than k may stay",
    "top-p ties": (
        "removed from the least probable up; equal values in the order of torch.sort, which is neither stable nor "
        "defined: where a row of ..._defined is 0, how many of the equal entries stay means something, which does not"
    ),
}


def seeds(*key: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *key])


def float32_distance(
    folder: Path, given: dict[str, torch.Tensor], answers: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return how far the oracle's own float32 run is from its float64 run, on the logits that are to be compared."""
    single = forward_answers(load(folder, GPT2LMHeadModel, torch.float32), given)
    masks = {"left_logits": given["left_mask"] == 1, "right_logits": given["right_mask"] == 1}
    return {
        name: float((single[name].double() - value).abs()[masks.get(name, ...)].max())
        for name, value in answers.items()
        if name.endswith("logits")
    }


def record_model(folder: Path, settings: dict[str, Any], number: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Write `model/` and return the forward answers with the facts about them."""
    random_model(settings, seeds(number, 0)).save_pretrained(folder / "model")
    given = forward_inputs(seeds(number, 1), settings["vocab_size"])
    model = load(folder / "model", GPT2LMHeadModel, torch.float64)
    forward = forward_answers(model, given)
    facts = {
        "oracle": "Hugging Face transformers, GPT2LMHeadModel, eager attention, weights widened to float64",
        "seed": SEED,
        "what": dict(WHAT),
        "context": {
            "max_abs_float32_minus_float64": float32_distance(folder / "model", given, forward),
            "logits_standard_deviation": float(forward["logits"].std()),
        },
    }
    return given | forward | hidden_states(model, given["ids"][:1]), facts


def record_tiny(folder: Path) -> None:
    tensors, facts = record_model(folder, TINY, 0)
    exact = load(folder / "model", Float64GPT2, torch.float64)
    library = load(folder / "model", GPT2LMHeadModel, torch.float64)
    greedy, gap = greedy_answers(exact, library, seeds(0, 2))
    beams, apart = beam_answers(exact, library, seeds(0, 3))
    warped, margin = warp_answers(warp_logits(seeds(0, 4), TINY["vocab_size"]))
    facts["what"] |= WHAT_DECODING
    facts["rules"] = RULES
    facts["context"] |= {
        "greedy_smallest_gap_between_best_and_second_logit": gap,
        "beam_max_abs_float32_minus_float64_score": apart,
        "top_p_smallest_distance_of_cumulative_probability_from_cut": margin,
    }
    arrays: Arrays = {name: to_array(value) for name, value in (tensors | greedy | beams | warped).items()}
    write_answers(folder, arrays)
    write_provenance(folder, COMMAND, facts, PACKAGES)


def record_untied(folder: Path) -> None:
    tensors, facts = record_model(folder, UNTIED, 1)
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    write_provenance(folder, COMMAND, facts, PACKAGES)


def record_sharded(folder: Path, tiny: Path) -> None:
    """Save the model of `gpt2_tiny` in several files and check that they hold the same values."""
    model = GPT2LMHeadModel.from_pretrained(tiny / "model", dtype=torch.float32)
    model.save_pretrained(folder / "model", max_shard_size=SHARD_SIZE)
    shards = sorted(path.name for path in (folder / "model").glob("model-*.safetensors"))
    if len(shards) < 3:
        raise RuntimeError(f"expected at least 3 shards, got {shards}")
    back = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32).state_dict()
    if not all(torch.equal(back[name], value) for name, value in model.state_dict().items()):
        raise RuntimeError("the sharded weights differ from the single file")
    facts = {
        "oracle": "Hugging Face transformers, save_pretrained",
        "seed": SEED,
        "what": {"model": f"the model of gpt2_tiny saved with max_shard_size={SHARD_SIZE}; same answers"},
        "context": {"shards": len(shards)},
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives gpt2_tiny, gpt2_tiny_untied, ...")
    out: Path = parser.parse_args().out
    deterministic()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.no_grad():
        record_tiny(out / "gpt2_tiny")
        record_untied(out / "gpt2_tiny_untied")
        record_sharded(out / "gpt2_tiny_sharded", out / "gpt2_tiny")


if __name__ == "__main__":
    main()
