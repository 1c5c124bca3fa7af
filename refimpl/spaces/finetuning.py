"""Training the generator of SPACES on pairs: from a generator, a published BERT or NEZHA, or from nothing.

A step reads, for `rows` pairs, one of the two sources of each (by a coin: what an extractor chose, and what the labels say), damaged by random
masking, and says the target (`refimpl.learning.seq2seq`). As published: 1,024 tokens, 8 rows, Adam at 2e-5, of whose weights the exponential moving
average with momentum 0.9999 is kept.

A published BERT becomes a generator so: of its vocabulary, what its tokenizer can say is kept, special words are added whose rows are the means of
their pieces' (`refimpl.spaces.words`), and the head of the tags is drawn, N(0, 0.02²).

The folder of a training has training.safetensors, its checkpoint; losses.json, of the held-out pairs after each epoch; and, once it is done, model/,
which `refimpl.spaces.seq2seq_folder.load_seq2seq` and `refimpl.text.open_tokenizer` open, and record.json.

Reference: J. Su, "SPACES: extract-generate long text summarization", Scientific Spaces 8046 (2021), and github.com/bojone/SPACES at a545db3,
`seq2seq_model.py`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl import backend as backends
from refimpl.backend import generator
from refimpl.bert import BertConfig
from refimpl.errors import ConfigError, TokenizerError
from refimpl.files import replace_file
from refimpl.learning import AdamW, Schedule, Training
from refimpl.learning.ema import EMA
from refimpl.learning.seq2seq import PairCorpus, Seq2SeqGradient, fitted, trained
from refimpl.learning.unilm_session import UniLMSession
from refimpl.number_system import device_of, namespace, whole_number
from refimpl.parameters import Linear
from refimpl.spaces import seq2seq
from refimpl.spaces.data import held_out, trained_on
from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights, initial_seq2seq
from refimpl.spaces.seq2seq_folder import load_seq2seq, save_seq2seq
from refimpl.text import open_tokenizer
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from refimpl.backend import Backend
    from refimpl.learning import State
    from refimpl.learning.seq2seq import PairBatch
    from refimpl.spaces.data import Pair

__all__ = ["Generator", "Seq2SeqOptions", "encoded", "from_bert", "from_folder", "from_nothing", "train_generator"]

SOURCES = ("both", "chosen", "labelled")
CHECKPOINT, LOSSES, MODEL, RECORD = "training.safetensors", "losses.json", "model", "record.json"


@dataclass(frozen=True)
class Seq2SeqOptions:
    """How a generator is trained; as published, unless told otherwise."""

    epochs: int = 50
    length: int = 1024  # tokens of source and target together; longer ones are cut
    rows: int = 8
    rectangles: int = 1  # of a step: rows · rectangles pairs
    form: Literal["padded", "sorted"] = "padded"
    sources: str = "both"  # or "chosen": source_1 alone, or "labelled": source_2 alone
    masking: float = 0.15
    dropout: float = 0.1
    rate: float = 2e-5
    shape: Literal["constant", "linear", "cosine"] = "constant"
    warm_up: int = 0
    floor: float = 0.0
    decay: float = 0.0  # of AdamW; 0 is Adam
    clip: float | None = None
    momentum: float = 0.9999  # of the average that is kept; 0 for the last weights
    k: int = 10
    copy_weight: float = 2.0
    dialect: str = "corrected"  # of the labels and the loss: `refimpl.spaces.seq2seq.dialects`
    seed: int = 0

    def __post_init__(self) -> None:
        if (whole_number(self.epochs) or 0) < 1 or self.sources not in SOURCES:
            expected = f"epochs from 1, sources one of {', '.join(SOURCES)}"
            got = f"epochs = {self.epochs!r}, sources = {self.sources!r}"
            raise ConfigError("options out of range", where="Seq2SeqOptions", expected=expected, got=got)


class Generator(NamedTuple):
    """A model and its tokenizer."""

    weights: Seq2SeqWeights
    config: Seq2SeqConfig
    tokenizer: Any  # with `framed`, `start_id`, `end_id` and `save`: `refimpl.text.framing.FramingTokenizer`


# --- where a training begins ----------------------------------------------------------------------------------------------------


def from_folder(folder: Path) -> Generator:
    """A generator in a folder, as this training writes it, in float32 on NumPy.

    Raises ConfigError where the tokenizer is not a generator's, and what `load_seq2seq` and `open_tokenizer` raise.
    """
    weights, config = load_seq2seq(folder, backend="numpy")
    return Generator(weights, config, _checked(open_tokenizer(folder), config, folder))


def _checked(tokenizer: Any, config: Seq2SeqConfig, where: Any) -> Any:
    """The tokenizer, if it is of this model."""
    if not all(hasattr(tokenizer, name) for name in ("encoded", "start_id", "end_id", "save")):
        expected = "words.json and vocab.txt, of a WordTokenizer or a PieceTokenizer"
        raise ConfigError("there is no tokenizer of a generator", where=where, expected=expected, got=tokenizer)
    theirs, ours = (
        (tokenizer.size, tokenizer.start_id, tokenizer.end_id),
        (
            config.bert.vocab_size,
            config.start_token_id,
            config.end_token_id,
        ),
    )
    if theirs != ours:
        what = "tokenizer and model do not fit"
        raise ConfigError(what, where=where, expected=f"tokens, start and end {ours}", got=theirs)
    return tokenizer


def from_bert(
    folder: Path, vocabulary: Path | None = None, dictionary: Sequence[str] = (), *, lower: bool = True, seed: int = 0
) -> Generator:
    """A published BERT or NEZHA with a masked-LM head as a generator of words, on NumPy in float32.

    Parameters
    ----------
    folder : what `refimpl.load` opens
    vocabulary : its vocab.txt; None: that of the folder
    dictionary : lines of a user dictionary, whose words become tokens
    lower : whether texts become lower case
    seed : of the tags' head

    Raises
    ------
    ConfigError, TokenizerError, weights_io.WeightsError
        if the folder has no encoder with such a head; for a vocabulary that is not the model's.
    """
    from refimpl.model import load
    from refimpl.spaces import words

    encoder: Any = load(folder, backend="numpy", dtype="float32")
    if not isinstance(encoder.config, BertConfig) or encoder.weights.masked_lm is None:
        expected = "a BERT or NEZHA with a masked-LM head"
        raise ConfigError("this model says no tokens", where=folder, expected=expected, got=repr(encoder))
    found = words.read_vocabulary(folder / words.VOCABULARY if vocabulary is None else vocabulary)
    if len(found) != encoder.config.vocab_size:
        expected, got = f"{encoder.config.vocab_size} tokens", f"{len(found)}"
        raise TokenizerError("the vocabulary is not the model's", where=folder, expected=expected, got=got)
    simplified, kept = words.simplified_vocabulary(found)
    pieces = words.WordTokenizer(simplified, lower=lower)
    extended, consists = words.extend_vocabulary(simplified, words.dictionary_words(dictionary), pieces)
    tokenizer = words.WordTokenizer(extended, dictionary, lower=lower)
    bert = words.extend_weights(encoder.weights._replace(pooler=None, next_sentence=None), kept, consists)
    sizes = dataclasses.replace(encoder.config, vocab_size=tokenizer.size)
    config = Seq2SeqConfig(sizes, tokenizer.start_id, tokenizer.end_id, _dialect(encoder.dialect))
    tags = generator(seed).normal(0.0, 0.02, (sizes.hidden_size, 3)).astype("float32")
    return Generator(Seq2SeqWeights(bert, Linear(tags, 0 * tags[0])), config, tokenizer)


def _dialect(dialect: Any) -> str:
    if not isinstance(dialect, str):
        raise ConfigError("the dialect has no name", where="from_bert", got=dialect)
    return dialect


def from_nothing(sizes: Mapping[str, Any], tokenizer: Any, seed: int = 0) -> Generator:
    """A generator whose weights are drawn.

    Parameters
    ----------
    sizes : fields of `refimpl.bert.BertConfig` but for the size of the vocabulary, which is the tokenizer's
    tokenizer : of a generator
    seed : of the weights

    Raises
    ------
    ConfigError
        for a field that is unknown, missing or makes no sense.
    """
    known = [field.name for field in dataclasses.fields(BertConfig) if field.name != "vocab_size"]
    unknown = sorted(set(sizes) - set(known))
    if unknown:
        got = ", ".join(map(repr, unknown))
        raise ConfigError("unknown sizes of a model", where="sizes", expected=", ".join(known), got=got)
    try:
        bert = BertConfig(vocab_size=tokenizer.size, **{"activation": "tanh", **sizes})
    except TypeError as error:
        raise ConfigError("a size is missing or no number", where="sizes", got=str(error)) from None
    bert = dataclasses.replace(bert, intermediate_size=bert.inner)  # as a folder says it
    config = Seq2SeqConfig(bert, tokenizer.start_id, tokenizer.end_id)
    return Generator(initial_seq2seq(config, seed), config, tokenizer)


# --- pairs ----------------------------------------------------------------------------------------------------------------------


def encoded(pairs: Sequence[Pair], tokenizer: Any, options: Seq2SeqOptions) -> tuple[list[tuple[Any, list[int]]], int]:
    """The pairs as token ids with their special tokens, ((source_1, source_2), target), and how many had to be cut.

    Where the longer source and the target have more than `length` tokens, the longer of the two is cut at its end, then both in turn
    (`refimpl.learning.seq2seq.fitted`); the other source is cut to what room is left.
    """
    names = {"both": ("source_1", "source_2"), "chosen": ("source_1",), "labelled": ("source_2",)}[options.sources]
    found, cut = [], 0
    for pair in pairs:
        sources = [tokenizer.framed(getattr(pair, name)).ids for name in names]
        whole = tokenizer.framed(pair.target).ids
        _, target = fitted(max(sources, key=len), whole, options.length)
        room = options.length - len(target)
        kept = [ids if len(ids) <= room else ids[: room - 1] + ids[-1:] for ids in sources]
        cut += len(target) < len(whole) or kept != sources
        found.append((tuple(kept), target))
    return found, cut


# --- training -------------------------------------------------------------------------------------------------------------------


def _gradient(config: Seq2SeqConfig, options: Seq2SeqOptions, backend: Backend, kind: str, threads: int) -> Any:
    """The fast session on NumPy, or the definitions' rules."""
    if kind not in ("session", "definitions"):
        raise ConfigError("unknown gradient", where="gradient", expected="session or definitions", got=repr(kind))
    if kind == "definitions":
        if options.dropout:
            what, remedy = "the rules have no dropout", "set it to 0 (--dropout 0)"
            raise ConfigError(what, where="dropout", expected="0", got=options.dropout, remedy=remedy)
        return Seq2SeqGradient(config, k=options.k, copy_weight=options.copy_weight, dialect=options.dialect)
    if backend.name != "numpy" or options.dialect != "corrected":
        expected, remedy = 'NumPy, and the dialect "corrected"', "use the definitions (--gradient definitions)"
        got = f"{backend.name}, {options.dialect!r}"
        raise ConfigError(
            "a fast session does not compute that", where="gradient", expected=expected, got=got, remedy=remedy
        )
    return UniLMSession(config, k=options.k, copy_weight=options.copy_weight, dropout=options.dropout, threads=threads)


def _loss(gradient: Any, weights: Seq2SeqWeights, batches: Sequence[PairBatch]) -> float:
    """The loss of the held-out pairs: the mean over their tokens, and over their tags, without masking and dropout."""
    if isinstance(gradient, UniLMSession):
        return float(gradient.loss(weights, batches))
    said, tagged = trained(batches)
    like = weights.bert.token_embedding
    xp, device = namespace(like), device_of(like)
    total = 0.0
    for batch in batches:
        ids, words, segments, labels, real = (xp.asarray(part, device=device) for part in batch)
        here = trained([batch])
        share = here[0] / said
        weight = gradient.copy_weight * here[1] / tagged / share
        options: dict[str, Any] = {"said": words, "k": gradient.k, "copy_weight": weight, "dialect": gradient.dialect}
        total += float(seq2seq.loss(weights, gradient.config, ids, segments, labels, real, **options)) * share
    return total


def train_generator(
    pairs: Sequence[Pair],
    start: Generator,
    folder: Path,
    options: Seq2SeqOptions | None = None,
    *,
    folds: int = 15,
    fold: int | None = 0,
    steps: int | None = None,
    backend: Backend | None = None,
    gradient: str = "session",
    threads: int = 1,
    resume: bool = False,
    every: int = 250,
    advance: Callable[[int, int, float], object] = lambda step, of, loss: None,
    notify: Callable[[str], object] = lambda text: None,
) -> Generator:
    """Train a generator, and write it to `folder`/model.

    Parameters
    ----------
    pairs : all of them, also those that are held out
    start : the model to begin with, on NumPy
    folder : of the training; is made
    options : how
    folds, fold : which pairs are held out, and only measured; a fold of None holds out none
    steps : in all; None: `options.epochs` epochs
    backend : where it is computed; None: NumPy
    gradient : "session", NumPy's fast one, or "definitions", on any backend, without dropout
    threads : of the session
    resume : go on with the folder's checkpoint
    every : steps between checkpoints; there is one after each epoch too
    advance : called after each step, with steps taken, steps in all, and the loss
    notify : told in a line where pairs had to be cut

    Raises
    ------
    ConfigError, TextError, DivergenceError, weights_io.WeightsError
        for options that make no sense together, a folder that is of another training, is not there or should not be; as
        `refimpl.learning.seq2seq.PairCorpus` and `refimpl.learning.Training`.
    """
    options, chosen = options or Seq2SeqOptions(), backend or backends.get("numpy")
    if options.length > start.config.context:
        expected, remedy = f"at most the model's {start.config.context} positions", "cut pairs to them (--length)"
        raise ConfigError(
            "pairs are longer than the model", where="length", expected=expected, got=options.length, remedy=remedy
        )
    ids, cut = encoded(pairs, start.tokenizer, options)
    if cut:
        notify(f"{cut} of {len(pairs)} pairs are longer than {options.length} tokens, and cut")
    numbers, held = list(range(len(ids))), list[int]()
    if fold is not None:
        numbers, held = trained_on(len(ids), folds, fold), held_out(len(ids), folds, fold)
    corpus = _corpus([ids[i] for i in numbers], options)
    measured = _corpus([ids[i] for i in held], options, rows=1).batches(options.rows) if held else []
    last = corpus.steps(0) * options.epochs if steps is None else steps
    one = _gradient(start.config, options, chosen, gradient, threads)
    training = _training(
        one, corpus, options, last, {"config": start.config, "backend": chosen.name, "gradient": gradient}
    )
    run = _Run(training, start, measured, folder, chosen)
    return run.run(last, resume, every, advance)


def _corpus(pairs: Sequence[tuple[Any, list[int]]], options: Seq2SeqOptions, rows: int | None = None) -> PairCorpus:
    return PairCorpus(
        pairs,
        length=options.length,
        form=options.form,
        rows=options.rows if rows is None else rows,
        rectangles=options.rectangles if rows is None else 1,
        masking=options.masking,
        seed=options.seed,
        dialect=options.dialect,
    )


def _training(gradient: Any, corpus: Any, options: Seq2SeqOptions, steps: int, about: Mapping[str, Any]) -> Training:
    optimizer: Any = AdamW(decay=options.decay)
    if options.momentum:
        optimizer = EMA(optimizer, options.momentum)
    of_steps = None if options.shape == "constant" else steps
    schedule = Schedule(options.rate, options.shape, of_steps, options.warm_up, options.floor)
    said = {**about, "config": dataclasses.asdict(about["config"]), **gradient.described()}
    return Training(gradient, corpus, optimizer, schedule, clip=options.clip, seed=options.seed, about=said)


class _Run:
    """A training in its folder."""

    def __init__(
        self, training: Training, start: Generator, held: Sequence[PairBatch], folder: Path, backend: Backend
    ) -> None:
        self.training, self.start, self.held, self.folder = training, start, held, folder
        self.first: Any = mapped(backend.asarray, start.weights)

    def run(self, steps: int, resume: bool, every: int, advance: Callable[[int, int, float], object]) -> Generator:
        checkpoint = self._checked(resume)
        state = self.training.resume(checkpoint, self.first) if resume else self.training.start(self.first)
        losses = self._losses(state)
        while True:
            if self.held and state.position == 0 and len(losses) < state.epoch:
                losses.append(_loss(self.training.gradient, self._current(state), self.held))
                self._say(LOSSES, losses)
            if state.step >= steps:
                return self._finish(state, losses)
            corpus: Any = self.training.corpus
            end = min(steps, state.step + corpus.steps(state.epoch) - state.position)
            watch = lambda state, taken: advance(taken.step, steps, taken.loss)  # noqa: E731
            state = self.training.run(state, end, checkpoint=checkpoint, every=every, watch=watch)

    def _checked(self, resume: bool) -> Path:
        """The checkpoint's place; refused where something would be overwritten, or there is nothing to go on with."""
        checkpoint = self.folder / CHECKPOINT
        if resume and not checkpoint.is_file():
            raise ConfigError("there is no training to resume", where=checkpoint, remedy="leave out --resume to begin")
        if not resume and checkpoint.exists():
            remedy = "add --resume to go on, or name another folder"
            raise ConfigError("there is a training in the folder already", where=checkpoint, remedy=remedy)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            got = f"{type(error).__name__}: {error}"
            raise ConfigError("the folder cannot be made", where=self.folder, got=got) from None
        return checkpoint

    def _losses(self, state: State) -> list[float]:
        """Those of the epochs that are over."""
        path = self.folder / LOSSES
        if not path.exists():
            return []
        return [float(each) for each in json.loads(path.read_text("utf-8"))][: state.epoch]

    def _current(self, state: State) -> Any:
        """The average of the weights, or the weights."""
        optimizer: Any = self.training.optimizer
        return optimizer.averaged(state.parameters, state.moments) if isinstance(optimizer, EMA) else state.parameters

    def _finish(self, state: State, losses: list[float]) -> Generator:
        """Write the model, its tokenizer, and the record."""
        weights, model = self._current(state), self.folder / MODEL
        save_seq2seq(model, weights, self.start.config)
        self.start.tokenizer.save(model)
        about = {"steps": state.step, "epochs": state.epoch, "losses": losses}
        self._say(RECORD, about | {"training": self.training.described(state.parameters)})
        return Generator(weights, self.start.config, self.start.tokenizer)

    def _say(self, name: str, value: Any) -> None:
        data = (json.dumps(value, indent=1) + "\n").encode()
        replace_file(self.folder / name, lambda file: file.write(data))
