"""A summarizer as a folder.

    spaces.json              {"format": 1, "settings": {..}}, under the names of `refimpl.spaces.summarizer.Settings`; what is absent is as there
    extractor.safetensors    the extractor, as `refimpl.spaces.extractor_file` has it
    seq2seq/                 the generator, as `refimpl.spaces.seq2seq_folder` has it, and the files of its tokenizer
    NAME/                    where the settings' `encoder` is NAME and not "seq2seq": a model that `refimpl.load` opens

Weights may be float16, which halves the folder: they are widened as they are read. Instead of a folder, everything here takes the name of one that
comes with the package: those of `EMBEDDED`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl import backend as backends
from refimpl.errors import ConfigError
from refimpl.files import replace_file
from refimpl.model import load as load_model
from refimpl.spaces.extractor_file import load_extractor, save_extractor
from refimpl.spaces.seq2seq_folder import load_seq2seq, save_seq2seq
from refimpl.spaces.summarizer import Settings, Summarizer
from refimpl.text import open_tokenizer
from refimpl.trees import mapped

if TYPE_CHECKING:
    from refimpl.spaces.running import Summarize

__all__ = ["EMBEDDED", "FORMAT", "Opened", "fingerprint", "load", "opened", "read_settings", "save"]

EMBEDDED: dict[str, Path] = {"synopsis": Path(__file__).parents[1] / "embedded" / "synopsis"}
FORMAT = 1
ABOUT, EXTRACTOR, GENERATOR = "spaces.json", "extractor.safetensors", "seq2seq"
DTYPES = ("float32", "float64")


def _place(folder: str | Path) -> Path:
    return EMBEDDED.get(str(folder), Path(folder))


def save(folder: str | Path, summarizer: Summarizer, dtype: str = "float32") -> None:
    """Write a summarizer, its weights rounded to `dtype`; what is there already is replaced, spaces.json last.

    A folder of an encoder of its own is not written: put it there under the name that the settings have for it.
    """
    path = Path(folder)
    generator, extractor = (
        mapped(lambda array: array.astype(dtype), each) for each in (summarizer.weights, summarizer.extractor_weights)
    )
    save_seq2seq(path / GENERATOR, generator, summarizer.config)
    save_extractor(path / EXTRACTOR, extractor, summarizer.extractor_config)
    summarizer.tokenizer.save(path / GENERATOR)
    _write(path / ABOUT, {"format": FORMAT, "settings": dataclasses.asdict(summarizer.settings)})


def _write(path: Path, value: Any) -> None:
    content = (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
    replace_file(path, lambda file: file.write(content))


def _read(path: Path) -> Any:
    """The settings in spaces.json, as they stand there."""
    expected = f"an object with format {FORMAT} and settings"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        remedy = f"name a folder that holds {ABOUT}, {EXTRACTOR} and {GENERATOR}/"
        what = "the summarizer cannot be read"
        raise ConfigError(what, where=path, expected=expected, got=got, remedy=remedy) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or set(found) != {"format", "settings"}:
        got = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        got += f"; format {found['format']!r}" if isinstance(found, dict) and "format" in found else ""
        raise ConfigError("the summarizer is not as expected", where=path, expected=expected, got=got)
    return found["settings"]


def read_settings(folder: str | Path) -> Settings:
    """The settings of a summarizer's folder; raises ConfigError for one that is none, and for fields that are unknown or out of range."""
    path = _place(folder)
    if not path.is_dir():
        coming = ", ".join(EMBEDDED)
        remedy = f"name a folder that docs/summarize.md says how to make, or one that comes with the package: {coming}"
        raise ConfigError("there is no such folder", where=path, remedy=remedy)
    fields, known = _read(path / ABOUT), [field.name for field in dataclasses.fields(Settings)]
    if not isinstance(fields, dict) or not set(fields) <= set(known):
        unknown = sorted(set(fields) - set(known)) if isinstance(fields, dict) else type(fields).__name__
        raise ConfigError("unknown settings", where=path / ABOUT, expected=", ".join(known), got=unknown)
    return Settings(**fields)


def fingerprint(folder: str | Path) -> str:
    """SHA-256 over the names and contents of all files of the folder, but for those that begin with a dot."""
    path, whole = _place(folder), hashlib.sha256()
    files = [file for file in path.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.relative_to(path).as_posix()):
        name = file.relative_to(path).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        with file.open("rb") as content:
            whole.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def load(folder: str | Path, *, backend: str = "auto", dtype: str = "float32") -> Summarizer:
    """The summarizer in a folder.

    Parameters
    ----------
    folder : as `save` writes it, or the name of an embedded one: "synopsis"
    backend : "numpy", "cupy" or "auto"
    dtype : "float32" or "float64", in which weights are kept and computed with

    Raises
    ------
    ConfigError, TokenizerError, weights_io.WeightsError, BackendError
        for what is not there, is of another format, or does not fit together.
    """
    path = _place(folder)
    settings = read_settings(path)
    if dtype not in DTYPES:
        raise ConfigError("unknown dtype", where="dtype", expected=", ".join(DTYPES), got=repr(dtype))
    chosen = backends.get(backend)
    weights, config = load_seq2seq(path / GENERATOR, backend=chosen.name, dtype=dtype)
    extractor, sizes = load_extractor(path / EXTRACTOR, dtype=dtype, backend=chosen.name)
    tokenizer: Any = open_tokenizer(path / GENERATOR)
    if not hasattr(tokenizer, "encoded"):
        expected = "the files of a WordTokenizer or PieceTokenizer: words.json and vocab.txt"
        raise ConfigError("the summarizer has no tokenizer", where=path / GENERATOR, expected=expected)
    encoder: Any = None
    if settings.encoder != "seq2seq":
        if Path(settings.encoder).name != settings.encoder:
            raise ConfigError(
                "an encoder is in a sub-folder", where=path / ABOUT, expected="its name", got=settings.encoder
            )
        encoder = load_model(path / settings.encoder, backend=chosen.name, dtype=dtype)
    return Summarizer(weights, config, tokenizer, extractor, sizes, settings, encoder)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A summarizer's folder with the options of its summaries: a `refimpl.spaces.running.Factory`, which can be sent to other processes.

    Calling it loads the folder, after seeing that it is still the same one: what a worker elsewhere has under this name may be another.
    """

    folder: str
    model: str  # its fingerprint
    options: tuple[tuple[str, Any], ...]
    backend: str = "auto"

    @property
    def key(self) -> dict[str, Any]:
        """What summaries made alike have in common."""
        return {"model": self.model, "options": dict(self.options)}

    def __call__(self) -> Summarize:
        """The function that summarizes a text; raises what `load` raises, and ConfigError for another model."""
        found = fingerprint(self.folder) if _place(self.folder).is_dir() else "no such folder"
        if found != self.model:
            expected = f"the model {self.model[:12]}"
            raise ConfigError("this is another model", where=self.folder, expected=expected, got=found[:12])
        return functools.partial(load(self.folder, backend=self.backend).summarize, **dict(self.options))


def opened(folder: str | Path, *, backend: str = "auto", **given: Any) -> Opened:
    """The folder with options; those that are None are as its settings say.

    Raises
    ------
    ConfigError
        for a folder that is no summarizer's, or options that are unknown or out of range.
    """
    options = read_settings(folder).options(**given)
    name = str(folder) if str(folder) in EMBEDDED else str(Path(folder).resolve())
    return Opened(name, fingerprint(folder), tuple(options.items()), backend)
