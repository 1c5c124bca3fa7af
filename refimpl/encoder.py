"""A loaded BERT, RoBERTa or NEZHA: what `refimpl.load` returns where the weights are an encoder's.

vectors = refimpl.load("folder").encode([[101, 2023, 102]])
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from refimpl import bert
from refimpl.errors import ConfigError
from refimpl.model import Model

if TYPE_CHECKING:
    from refimpl.backend import Backend
    from refimpl.number_system import Array
    from refimpl.text import Tokenizer

__all__ = ["Encoder"]


class Encoder(Model):
    """A loaded encoder: its numbers (`weights`, `config`), and what to do with them.

    Attributes
    ----------
    config : BertConfig
    weights : BertWeights, on the backend's device
    backend : Backend
    tokenizer : Tokenizer or None
    dialect : "huggingface", "bert4keras", "bert4keras-0.9" or a `bert.Dialect`
    """

    def __init__(
        self,
        weights: bert.BertWeights,
        config: bert.BertConfig,
        backend: Backend,
        tokenizer: Tokenizer | None = None,
        *,
        dialect: str | bert.Dialect = "huggingface",
    ) -> None:
        self.weights: Any = weights
        self.config: Any = config
        self.backend = backend
        self.tokenizer = tokenizer
        self.dialect: Any = dialect
        self.defaults = {}

    def __repr__(self) -> str:
        count = sum(math.prod(array.shape) for array in self.weights.named().values())
        kind = "NEZHA" if self.config.max_position_embeddings is None else "BERT"
        return f"<{kind} with {count:,} parameters, {self.weights.token_embedding.dtype}, backend {self.backend.name}>"

    def encode(self, token_ids: Any, segment_ids: Any = None, mask: Any = None) -> Array:
        """The definition's x_L, `refimpl.bert.encode`: int (batch, length) -> (batch, length, d), on this model's backend."""
        return bert.encode(self.weights, self.config, token_ids, segment_ids, mask=mask, dialect=self.dialect)

    def pooled(self, token_ids: Any, segment_ids: Any = None, mask: Any = None) -> Array:
        """tanh(W x_L[0] + b), `refimpl.bert.pooled`: int (batch, length) -> (batch, d)."""
        return bert.pooled(self.weights, self.encode(token_ids, segment_ids, mask))

    def logits(self, token_ids: Any, mask: Any = None) -> Array:
        """The masked-LM head's scores, `refimpl.bert.masked_lm_logits`: int (batch, length) -> (batch, length, vocab)."""
        hidden = self.encode(token_ids, mask=mask)
        return bert.masked_lm_logits(self.weights, self.config, hidden, dialect=self.dialect)

    def _decoder(self) -> NoReturn:
        remedy = "use encode, pooled or logits; to continue texts, load a GPT-2"
        raise ConfigError("an encoder does not continue texts", where="refimpl.load", got=repr(self), remedy=remedy)

    def _stop(self, stop: Any) -> NoReturn:
        self._decoder()

    def prompt_ids(self, text: str) -> NoReturn:
        """Refused: an encoder has no prompts."""
        self._decoder()

    def stream(self, prompt: str, **options: Any) -> NoReturn:
        """Refused: an encoder does not continue texts."""
        self._decoder()

    def score(self, text: str, *, end: bool = False) -> NoReturn:
        """Refused: an encoder's logits at a token are not of the next one."""
        self._decoder()
