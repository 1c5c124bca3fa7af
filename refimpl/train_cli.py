"""The command `refimpl train`: texts in, a folder out that `refimpl.load` opens."""

from __future__ import annotations

import dataclasses
from pathlib import Path  # noqa: TC003 - typer reads annotations as the command is declared
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from refimpl import backend as backends
from refimpl import gpt2
from refimpl.console import bar, err, out, separated
from refimpl.errors import ConfigError, TextError

if TYPE_CHECKING:
    from refimpl import learning

__all__ = ["read_texts", "train"]

CHECKPOINT = "training.safetensors"


def read_texts(path: Path) -> list[str]:
    """The texts of a UTF-8 file, or of all .txt files of a folder in the order of their names; blank lines separate texts.

    Raises TextError for what cannot be read, and where there is no text.
    """
    try:
        files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        texts = [text for file in files for text in separated(file.read_text("utf-8"))]
    except (OSError, UnicodeDecodeError) as error:
        raise TextError("the texts cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None
    if not texts:
        expected = "a UTF-8 text file, or a folder with some that end in .txt; blank lines separate texts"
        raise TextError("there is nothing to learn from", where=path, expected=expected)
    return texts


def train(
    texts: Annotated[
        Path, typer.Argument(help="A UTF-8 text file, or a folder of .txt files; blank lines separate texts.")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder for the model and the training's checkpoint.")],
    steps: Annotated[int, typer.Option(help="Steps in all.", min=1)] = 1000,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    width: Annotated[int, typer.Option(min=1)] = 192,
    heads: Annotated[int, typer.Option(min=1)] = 6,
    positions: Annotated[int, typer.Option(help="Characters that the model sees at once.", min=2)] = 128,
    vocabulary: Annotated[int | None, typer.Option(help="Characters kept, the most frequent; without it, all.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of that many characters in a step.", min=1)] = 16,
    rate: Annotated[
        float, typer.Option(help="Peak of the learning rate: warm-up over a 20th of the steps, then a cosine.")
    ] = 3e-3,
    decay: Annotated[float, typer.Option(help="Decoupled weight decay of matrices.")] = 0.1,
    dropout: Annotated[float, typer.Option(help="Part of the numbers dropped in each branch.")] = 0.05,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradients.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 0,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 100,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint, with the same options.")
    ] = False,
    threads: Annotated[
        int, typer.Option(help="Parts of a step side by side; set OPENBLAS_NUM_THREADS=1 with more than 1.", min=1)
    ] = 1,
    backend: Annotated[str, typer.Option("--backend", help="numpy, cupy or auto; cupy knows no dropout.")] = "numpy",
) -> None:
    """Train a GPT-2 of characters on texts: refimpl train poems.txt model; then refimpl generate "..." --model model."""
    from refimpl import learning
    from refimpl.learning.folders import character_vocabulary, save_character_gpt2

    checkpoint, chosen, read = folder / CHECKPOINT, backends.get(backend), read_texts(texts)
    _check_folder(folder, checkpoint, resume)
    characters = character_vocabulary(read, vocabulary)
    config = gpt2.GPT2Config(len(characters), positions, width, layers, heads, bos_token_id=0, eos_token_id=0)
    ids = {character: number for number, character in enumerate(characters)}
    framed = [[0, *(ids.get(character, 1) for character in text)] for text in read]
    corpus = learning.Corpus(framed, length=positions, form="packed", rows=rows, seed=seed, ignored=[1])
    gradient, about = _gradient(config, chosen, dropout, threads)
    schedule = learning.Schedule(rate, "cosine", steps, steps // 20, 0.005)
    optimizer = learning.AdamW((0.9, 0.95), decay=decay)
    training = learning.Training(gradient, corpus, optimizer, schedule, clip=clip, seed=seed, about=about)
    first = gpt2.GPT2Weights.from_named(
        {name: chosen.asarray(array) for name, array in learning.initial_gpt2(config, seed).named().items()}, config
    )
    state = training.resume(checkpoint, first) if resume else training.start(first)
    state = _run(training, state, steps, checkpoint, every)
    save_character_gpt2(folder, state.parameters, config, characters)
    out.print(
        f'Model: {escape(str(folder))}   (refimpl generate "..." --model {escape(str(folder))})',
        highlight=False,
        soft_wrap=True,
    )


def _check_folder(folder: Path, checkpoint: Path, resume: bool) -> None:
    """Refuse what would be overwritten, before anything is computed; make the folder."""
    if resume and not checkpoint.is_file():
        raise ConfigError("there is no training to resume", where=checkpoint, remedy="leave out --resume to begin one")
    if not resume and checkpoint.exists():
        remedy = "add --resume to go on, or name another folder"
        raise ConfigError("there is a training in the folder already", where=checkpoint, remedy=remedy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the folder cannot be made", where=folder, got=got) from None


def _gradient(
    config: gpt2.GPT2Config, backend: backends.Backend, dropout: float, threads: int
) -> tuple[Any, dict[str, Any]]:
    """The fast session on NumPy, the definitions' rules elsewhere; and what a checkpoint is known by."""
    from refimpl import learning

    about = {"config": dataclasses.asdict(config), "backend": backend.name}
    if backend.name == "numpy":
        session = learning.Session(config, dropout=dropout, threads=threads)
        return session, about | session.described()
    if dropout:
        raise ConfigError(
            "dropout is NumPy's alone", where="--dropout", expected="0", got=dropout, remedy="--dropout 0"
        )
    return learning.GPT2Gradient(config), about


def _run(
    training: learning.Training, state: learning.State, steps: int, checkpoint: Path, every: int
) -> learning.State:
    """All steps that are left, with a bar on a terminal and a line at each checkpoint."""
    recent: list[float] = []
    with bar(remaining=True) as progress:
        task = progress.add_task("training", total=steps, completed=state.step)

        def watch(state: learning.State, taken: learning.Taken) -> None:
            recent.append(taken.loss)
            progress.update(task, completed=taken.step, description=f"loss {taken.loss:.3f}")
            if taken.step % every == 0 or taken.step == steps:
                err.print(f"step {taken.step}: loss {sum(recent) / len(recent):.4f}", highlight=False)
                recent.clear()

        return training.run(state, steps, checkpoint=checkpoint, every=every, watch=watch)
