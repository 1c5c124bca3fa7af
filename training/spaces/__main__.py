"""SPACES on one's own texts: python -m training.spaces labels | extractor | seq2seq | assemble. See docs/training_spaces.md."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from refimpl import backend as backends
from refimpl.console import bar, err, out
from refimpl.errors import ConfigError, RefimplError, TextError
from refimpl.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from refimpl.spaces.crossfit import Fold
    from refimpl.spaces.data import Labelled

app = typer.Typer(help="Train a summarizer on texts with summaries.", no_args_is_help=True)
RECORD, PAIRS, VECTORS = "record.json", "pairs.jsonl", "vectors.npy"
BackendOption = Annotated[str, typer.Option("--backend", help="numpy, cupy or auto.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with what was stopped, with the same options.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)]
WordsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--words", help="A user dictionary: a word a line, with its frequency and kind if wanted. Several in turn."
    ),
]


@contextmanager
def _progress(what: str) -> Iterator[Callable[..., None]]:
    """A function of steps done, their number, and the loss, which shows them on a terminal."""
    with bar(remaining=True) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int, of: int, loss: float = math.nan) -> None:
            told = what if math.isnan(loss) else f"{what}, loss {loss:.3f}"
            progress.update(task, completed=done, total=of, description=told)

        yield advance


def _lines(files: list[Path] | None) -> list[str]:
    """The lines of dictionaries."""
    try:
        return [line for file in files or [] for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(
            "a dictionary cannot be read", where="--words", got=f"{type(error).__name__}: {error}"
        ) from None


def _tell(text: str) -> None:
    err.print(escape(text), highlight=False)


def _say(path: Path, value: Any) -> None:
    data = (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
    replace_file(path, lambda file: file.write(data))


# --- labels -----------------------------------------------------------------------------------------------------------------------


@app.command()
def labels(
    data: Annotated[
        Path, typer.Argument(help='A JSON object a line: {"text": ..., "summary": ...}, or as CAIL 2020 has them.')
    ],
    to: Annotated[Path, typer.Option("--out", help="The file of labelled documents.")],
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the order of the documents, which decides the folds.", min=0)] = 0,
    sentences: Annotated[int, typer.Option(help="Sentences of a text at most, the last ones.", min=1)] = 256,
    rouge: Annotated[str, typer.Option(help="Dialect of ROUGE.")] = "rouge-1.0.1",
    unit: Annotated[str, typer.Option(help="What the score is counted in: character or word.")] = "character",
    words: WordsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Match the sentences of each text with those of its summary. A line that holds no document is reported, left out, and makes exit status 1."""
    from refimpl.spaces.labelling import LabelOptions, label_file

    options = LabelOptions(sentences, rouge, unit, tuple(_lines(words)))
    with _progress("labelling") as advance:
        found = label_file(data, to, options, seed=seed, jobs=jobs, resume=resume, advance=advance)
    for failure in found.failures:
        err.print(
            f"[bold red]error:[/bold red] {escape(str(data))}, line {failure.line}: {escape(failure.error)}",
            highlight=False,
        )
    out.print(f"{found.documents} documents, main metric of the labelled sentences {found.score:.4f}", highlight=False)
    if found.failures:
        err.print(f"{len(found.failures)} lines could not be used", highlight=False)
        raise typer.Exit(1)


# --- extractor --------------------------------------------------------------------------------------------------------------------


@app.command()
def extractor(
    labelled: Annotated[Path, typer.Argument(help="What labels wrote.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the vectors, the folds, and the pairs.")],
    encoder: Annotated[Path, typer.Option(help="Folder of a BERT, RoBERTa or NEZHA, or of a generator.")],
    folds: Annotated[int, typer.Option(help="Parts, each of which is held out once.", min=2)] = 15,
    fold: Annotated[
        list[int] | None, typer.Option(help="Train only this one; several may be given. Without it, all.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Train one more on all documents; needs --keep average or last.")
    ] = False,
    vectors: Annotated[str, typer.Option(help="dtype of the vectors' file: float16 or float32.")] = "float16",
    tokens: Annotated[int, typer.Option(help="Tokens of a sentence at most.", min=3)] = 512,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    rows: Annotated[int, typer.Option(help="Documents of a step.", min=1)] = 64,
    rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    hidden: Annotated[int, typer.Option(help="Width of the convolutions.", min=1)] = 384,
    dropout: Annotated[float, typer.Option()] = 0.1,
    keep: Annotated[
        str, typer.Option(help="best (epoch, by the held-out documents), average (of the weights) or last.")
    ] = "best",
    momentum: Annotated[float, typer.Option(help="Of the average.")] = 0.99,
    threshold: Annotated[float, typer.Option(help="Sentences of a larger probability are chosen.")] = 0.2,
    margin: Annotated[float, typer.Option(help="Added to it where epochs are compared, as published.")] = 0.1,
    otherwise: Annotated[
        str, typer.Option(help="Where there is none: best, the most probable one, or none, as published.")
    ] = "best",
    loss: Annotated[str, typer.Option(help="corrected or published.")] = "corrected",
    seed: SeedOption = 0,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 250,
    backend: BackendOption = "numpy",
    resume: ResumeOption = False,
) -> None:
    """Train an extractor for each fold, and let each choose the sentences of the documents that it has not seen."""
    from refimpl.spaces.assembling import embedder
    from refimpl.spaces.crossfit import ExtractorOptions, train_fold
    from refimpl.spaces.data import check_folds, digest, read_labelled

    options = ExtractorOptions(
        hidden, epochs, rows, rate, dropout, threshold, margin, otherwise, keep, momentum, loss, _rouge(labelled), seed
    )
    documents, chosen = read_labelled(labelled), backends.get(backend)
    asked = list(range(folds)) if fold is None else fold
    for number in asked:
        check_folds(folds, number, len(documents))
    if whole and keep == "best":
        raise ConfigError(
            "nothing is held out of all documents", where="--whole", expected="--keep average or last", got=keep
        )
    _begin(to, resume)
    made = embedder(encoder, backend=backend, tokens=tokens)
    about = {"labels": digest(labelled), "encoder": made.fingerprint, "tokens": tokens}
    with _progress("vectors") as advance:
        found = _vectors(documents, made, to, about, vectors, advance)
    _say(to / RECORD, _record(labelled, encoder, about, folds, options))
    done: dict[int, Fold] = {}
    for each in [*asked, *([None] if whole else [])]:
        name = "whole" if each is None else f"fold-{each:02}"
        with _progress(name) as advance:
            result = train_fold(
                documents, found, folds, each, to / name, options, backend=chosen, every=every, advance=advance
            )
        out.print(f"{name}: {_told(result)}", highlight=False)
        if each is not None:
            done[each] = result
    if len(done) == folds:
        _write_pairs(documents, found, done, folds, options, chosen, to / PAIRS)
    else:
        out.print(f"{PAIRS} is written where all folds are asked for: leave out --fold, with --resume", highlight=False)


def _begin(folder: Path, resume: bool) -> None:
    """Refuse what would be mixed up with another run; make the folder."""
    if resume and not folder.is_dir():
        raise ConfigError("there is nothing to resume", where=folder, remedy="leave out --resume to begin")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            "there is something in the folder already",
            where=folder,
            remedy="add --resume to go on, or name another folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("the folder cannot be made", where=folder, got=f"{type(error).__name__}: {error}") from None


def _label_record(labelled: Path) -> dict[str, Any]:
    """What `labels` wrote beside its file; nothing where it is from elsewhere."""
    path = labelled.with_name(labelled.name + ".json")
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _rouge(labelled: Path) -> str:
    return str(_label_record(labelled).get("dialect", "rouge-1.0.1"))


def _record(labelled: Path, encoder: Path, about: dict[str, Any], folds: int, options: Any) -> dict[str, Any]:
    """What `assemble` needs to know of this run."""
    sentences = _label_record(labelled).get("limit", 256)
    return {
        "labels": {"file": str(labelled), "sha256": about["labels"]},
        "encoder": {"folder": str(encoder.resolve()), "fingerprint": about["encoder"], "tokens": about["tokens"]},
        "folds": folds,
        "options": asdict(options),
        "settings": {"threshold": options.threshold, "sentences": sentences, "rouge": options.rouge},
    }


def _vectors(
    documents: list[Labelled], made: Any, folder: Path, about: dict[str, Any], dtype: str, advance: Any
) -> Any:
    from refimpl.spaces.vectors import make_vectors

    return make_vectors(documents, made.embed, folder / VECTORS, about, width=made.width, dtype=dtype, advance=advance)


def _told(fold: Fold) -> str:
    if not fold.epochs:
        return f"all documents, {fold.kept} epochs"
    return f"main metric {fold.epochs[fold.kept - 1]:.4f} of the held-out documents after epoch {fold.kept}"


def _write_pairs(
    documents: list[Labelled], vectors: Any, folds: dict[int, Fold], count: int, options: Any, backend: Any, path: Path
) -> None:
    """Every document's sources, in the order of the documents, and how near they are to the summaries."""
    from refimpl.spaces.crossfit import pairs_of, sources
    from refimpl.spaces.data import held_out, write_lines
    from refimpl.text.rouge import main_metric

    found: dict[int, str] = {}
    for number, fold in folds.items():
        found |= sources(fold, documents, vectors, held_out(len(documents), count, number), options, backend=backend)
    pairs = pairs_of(documents, found)
    write_lines(path, pairs)
    for name, told in (("source_1", "chosen by the extractors"), ("source_2", "labelled")):
        scores = [main_metric(getattr(pair, name), pair.target, dialect=options.rouge) for pair in pairs]
        out.print(
            f"main metric of the sentences {told}: {math.fsum(scores) / len(scores):.4f}, by characters",
            highlight=False,
        )


# --- seq2seq ----------------------------------------------------------------------------------------------------------------------


@app.command()
def seq2seq(
    pairs: Annotated[
        Path,
        typer.Argument(
            help="pairs.jsonl of extractor; or what labels wrote, whose labelled sentences are then the sources."
        ),
    ],
    to: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint and the model.")],
    model: Annotated[
        Path | None, typer.Option(help="Begin with a generator: the folder model/ of an earlier training.")
    ] = None,
    bert: Annotated[Path | None, typer.Option(help="Begin with a BERT or NEZHA that has a masked-LM head.")] = None,
    new: Annotated[Path | None, typer.Option(help="Begin with nothing: a JSON file with the sizes of a BERT.")] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="With --bert: its vocab.txt; with --new: the folder of a tokenizer.")
    ] = None,
    size: Annotated[
        int,
        typer.Option(help="With --new and no --vocabulary: tokens of the vocabulary that is made of the pairs.", min=1),
    ] = 8000,
    words: WordsOption = None,
    cased: Annotated[bool, typer.Option("--cased", help="With --bert: keep capitals and marks.")] = False,
    folds: Annotated[int, typer.Option(help="Parts, of which --fold is held out.", min=2)] = 15,
    fold: Annotated[int, typer.Option(help="Pairs that are only measured; -1: none.", min=-1)] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    steps: Annotated[int | None, typer.Option(help="In all, in place of epochs.", min=1)] = None,
    length: Annotated[int, typer.Option(help="Tokens of source and target together.", min=4)] = 1024,
    rows: Annotated[int, typer.Option(help="Pairs read at once.", min=1)] = 8,
    rectangles: Annotated[
        int, typer.Option(help="So many times that before a step: accumulated gradients.", min=1)
    ] = 1,
    form: Annotated[
        str, typer.Option(help="padded: pairs as they come; sorted: those of about one length together.")
    ] = "padded",
    sources: Annotated[str, typer.Option(help="both, chosen or labelled.")] = "both",
    masking: Annotated[float, typer.Option(help="Part of the tokens that are read as others.")] = 0.15,
    dropout: Annotated[float, typer.Option(help="The definitions have none.")] = 0.1,
    rate: Annotated[float, typer.Option(help="Learning rate, at its peak.")] = 2e-5,
    shape: Annotated[str, typer.Option(help="Of the learning rate: constant, linear or cosine.")] = "constant",
    warm_up: Annotated[int, typer.Option(help="Steps.", min=0)] = 0,
    floor: Annotated[float, typer.Option(help="What is left of the rate at the end.")] = 0.0,
    decay: Annotated[float, typer.Option(help="Decoupled weight decay of matrices; 0 is Adam.")] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients.")] = None,
    momentum: Annotated[
        float, typer.Option(help="Of the average of the weights, which is kept; 0: the last weights are.")
    ] = 0.9999,
    k: Annotated[int, typer.Option(help="Logits in the loss of a token.", min=1)] = 10,
    copy_weight: Annotated[float, typer.Option(help="Weight of the tags' loss.")] = 2.0,
    dialect: Annotated[
        str, typer.Option(help="corrected or published; the latter on the definitions alone.")
    ] = "corrected",
    seed: SeedOption = 0,
    gradient: Annotated[
        str | None, typer.Option(help="session (fast, NumPy's alone) or definitions; without it, session on numpy.")
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Parts of a step side by side; set OPENBLAS_NUM_THREADS=1 with more than 1.", min=1)
    ] = 1,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 250,
    backend: BackendOption = "numpy",
    summarizer: Annotated[
        Path | None, typer.Option(help="Also write a summarizer into this folder: needs --extractor.")
    ] = None,
    extractor: Annotated[Path | None, typer.Option(help="Folder of the command extractor, for --summarizer.")] = None,
    resume: ResumeOption = False,
) -> None:
    """Train a generator on pairs of a source and a summary."""
    from refimpl.spaces.data import read_pairs
    from refimpl.spaces.finetuning import Seq2SeqOptions, train_generator

    if (summarizer is None) != (extractor is None):
        raise ConfigError(
            "a summarizer has a generator and an extractor", where="--summarizer", expected="--extractor beside it"
        )
    found, chosen = read_pairs(pairs), backends.get(backend)
    given: dict[str, Any] = {"form": form, "shape": shape}
    options = Seq2SeqOptions(
        epochs=epochs, length=length, rows=rows, rectangles=rectangles, sources=sources, masking=masking, dropout=dropout,
        rate=rate, warm_up=warm_up, floor=floor, decay=decay, clip=clip, momentum=momentum, k=k, copy_weight=copy_weight,
        dialect=dialect, seed=seed, **given,
    )  # fmt: skip
    start = _start(found, to, model, bert, new, vocabulary, size, _lines(words), not cased, seed)
    if gradient is None:
        gradient = "session" if chosen.name == "numpy" else "definitions"
    more: dict[str, Any] = {"folds": folds, "fold": None if fold == -1 else fold, "steps": steps, "resume": resume}
    more |= {"backend": chosen, "gradient": gradient, "threads": threads, "every": every}
    with _progress("training") as advance:
        train_generator(found, start, to, options, advance=advance, notify=_tell, **more)
    said = json.loads((to / RECORD).read_text("utf-8"))
    held = f", held-out loss {said['losses'][-1]:.4f}" if said["losses"] else ""
    out.print(f"{said['steps']} steps{held}. Model: {escape(str(to / 'model'))}", highlight=False, soft_wrap=True)
    if summarizer is not None and extractor is not None:
        _assemble(summarizer, to / "model", extractor, None, "float32", {})


def _start(
    pairs: Any, to: Path, model: Path | None, bert: Path | None, new: Path | None, vocabulary: Path | None, size: int,
    words: list[str], lower: bool, seed: int,
) -> Any:  # fmt: skip
    """What the training begins with."""
    from refimpl.spaces.finetuning import from_bert, from_folder, from_nothing

    given = [name for name, each in (("--model", model), ("--bert", bert), ("--new", new)) if each is not None]
    if len(given) != 1:
        raise ConfigError(
            "a training begins with one model",
            where="seq2seq",
            expected="one of --model, --bert and --new",
            got=", ".join(given) or "none",
        )
    if model is not None:
        return from_folder(model)
    if bert is not None:
        return from_bert(bert, vocabulary, words, lower=lower, seed=seed)
    assert new is not None
    try:
        sizes = json.loads(new.read_text("utf-8"))
        sizes.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            "the sizes cannot be read", where=new, expected="a JSON object", got=f"{type(error).__name__}: {error}"
        ) from None
    return from_nothing(sizes, _tokenizer(pairs, vocabulary, size), seed)


def _tokenizer(pairs: Any, folder: Path | None, size: int) -> Any:
    """That of a folder, or one made of the pairs."""
    from refimpl.text import open_tokenizer
    from refimpl.text.pieces import train_vocabulary

    if folder is None:
        return train_vocabulary((text for pair in pairs for text in (pair.source_2, pair.target)), size)
    found = open_tokenizer(folder)
    if not hasattr(found, "encoded"):
        raise ConfigError("there is no tokenizer of a generator", where=folder, expected="words.json and vocab.txt")
    return found


# --- summarizer -------------------------------------------------------------------------------------------------------------------


@app.command()
def assemble(
    to: Annotated[Path, typer.Argument(help="Folder of the summarizer, which is not there yet.")],
    generator: Annotated[Path, typer.Option(help="Folder model/ of the command seq2seq.")],
    extractor: Annotated[Path, typer.Option(help="Folder of the command extractor.")],
    fold: Annotated[
        int | None, typer.Option(help="Which fold's extractor; without it that of all documents, or the first.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16, of the weights.")] = "float32",
    settings: Annotated[str, typer.Option(help='A JSON object of settings, such as {"beams": 1}.')] = "{}",
) -> None:
    """Put a summarizer together that `refimpl summarize --model` opens."""
    try:
        given = json.loads(settings)
        given.keys()
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            "the settings cannot be read",
            where="--settings",
            expected="a JSON object",
            got=f"{type(error).__name__}: {error}",
        ) from None
    _assemble(to, generator, extractor, fold, dtype, given)


def _assemble(
    to: Path, generator: Path, extractor: Path, fold: int | None, dtype: str, settings: dict[str, Any]
) -> None:
    from refimpl.spaces.assembling import assemble

    names = ["whole", "fold-00"] if fold is None else [f"fold-{fold:02}"]
    files = [extractor / name / "extractor.safetensors" for name in names]
    file = next((each for each in files if each.is_file()), files[-1])
    assemble(to, generator, file, extractor / RECORD, dtype=dtype, **settings)
    out.print(
        f"Summarizer: {escape(str(to))}   (refimpl summarize FILE --model {escape(str(to))})",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    """Run the command; errors of this project are printed as they are, without a traceback, and exit with 2."""
    import weights_io

    try:
        app()
    except (RefimplError, weights_io.WeightsError) as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
