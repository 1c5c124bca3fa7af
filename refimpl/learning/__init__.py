"""Learning without a framework: optimizers, schedules, data, checkpoints, and the training of a GPT-2.

    training = learning.Training(gradient, corpus, learning.AdamW(decay=0.1), learning.Schedule(3e-3, "cosine", steps=1000))
    state = training.run(training.start(parameters), 1000, checkpoint="training.safetensors")

Optimizers and losses are definitions, on any array library; data and checkpoints are made on the host.
"""

from refimpl.learning.checkpoints import State
from refimpl.learning.data import Batch, Corpus
from refimpl.learning.ema import EMA, EMAState
from refimpl.learning.folders import character_vocabulary, save_character_gpt2
from refimpl.learning.losses import mean_cross_entropy, mean_cross_entropy_vjp
from refimpl.learning.models import GPT2Gradient, initial_gpt2
from refimpl.learning.optimizers import SGD, AdamState, AdamW, Momentum, clipped, global_norm, matrices
from refimpl.learning.schedules import Schedule
from refimpl.learning.session import Session
from refimpl.learning.training import Taken, Training
from refimpl.learning.unilm_session import UniLMSession

__all__ = [
    "EMA",
    "SGD",
    "AdamState",
    "AdamW",
    "Batch",
    "Corpus",
    "EMAState",
    "GPT2Gradient",
    "Momentum",
    "Schedule",
    "Session",
    "State",
    "Taken",
    "Training",
    "UniLMSession",
    "character_vocabulary",
    "clipped",
    "global_norm",
    "initial_gpt2",
    "matrices",
    "mean_cross_entropy",
    "mean_cross_entropy_vjp",
    "save_character_gpt2",
]
