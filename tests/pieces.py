"""Small SentencePiece models in the form of CPM-LM's, trained in a fraction of a second: for tests where the real one is not at hand."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import sentencepiece

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    "▂ 中文 的 天气 不错 , ▂ 12 ab",
    "▂ 今天 天气 不错 ▂ abc",
    "美国 的 首都 是 , ▂",
    "我们 的 中文 天气 12 3",
    "0 1 2 3 a b c d ▂",
) * 3
SPECIAL = ("<cls>", "<sep>", "<pad>", "<mask>", "<eod>")  # pieces 3 to 7, as published


def trained(size: int = 64, special: Any = SPECIAL, **options: Any) -> bytes:
    """A byte-pair model of `size` pieces, in the form of the older of the published files."""
    model = io.BytesIO()
    chosen = {"model_type": "bpe", "control_symbols": list(special), "character_coverage": 1.0, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=size, **{**chosen, **options}
    )
    return model.getvalue()


def written(folder: Path, name: str = "bpe_3w_new/chinese_vocab.model", **options: Any) -> Path:
    """The same in a file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trained(**options))
    return path
