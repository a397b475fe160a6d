"""Every model for which the store holds bigram subnetworks, measured alike and side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bigramlib.analysis.controls import ablate, frontier, smallest_reaching
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.models.language_model import RANDOM, LanguageModel
from bigramlib.models.loading import load_model
from bigramlib.store import store_folder
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.sources import check_source

FACTS = {"model", "corpus", "target_hash", "sparsity_penalty", "config", "steps"}
"""What the provenance of a subnetwork says that was found by training."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surveyed:
    """A model with its bigram subnetworks in the store.

    Attributes:
        model: the model.
        train: the text on which its bigrams were counted.
        evaluation: held-out text.
        table: the bigram table.
        subnetworks: by lambda; of several with the same lambda the one trained on most tokens, then of the lowest seed.
    """

    model: LanguageModel
    train: TokenCorpus
    evaluation: TokenCorpus
    table: BigramTable
    subnetworks: dict[float, Subnetwork]

    def points(self, max_tokens: int) -> pd.DataFrame:
        """`frontier` of the subnetworks, with a column model."""
        return frontier(self.model, self.subnetworks, self.evaluation, self.table, max_tokens=max_tokens).assign(
            model=self.model.name
        )

    def summary(self, points: pd.DataFrame, max_tokens: int) -> dict[str, object]:
        """One row about the smallest subnetwork with r > 0.95, or that with the highest r: size, place, damage and turn."""
        best = smallest_reaching(points, 0.95)
        subnetwork = self.subnetworks[best.sparsity_penalty]
        damage = ablate(self.model, subnetwork, self.evaluation, self.table, draws=1, max_tokens=max_tokens)
        moments = ResidualMoments.collect(self.model, self.train, max_tokens=4 * max_tokens)
        lens = lens_report(self.model, moments, self.evaluation, max_tokens=max_tokens // 4, batch_size=4)
        rises = lens.set_index("layer").r.diff().iloc[1:]
        return {
            "model": self.model.name,
            "parameters": sum(parameter.numel() for parameter in self.model.hf.parameters()),
            "maskable": subnetwork.total,
            "full r": float(points.set_index("case").r["full"]),
            "kept": subnetwork.kept,
            "share kept": subnetwork.density,
            "r": best.r,
            "in first MLP": best.first_mlp_share,
            "without it, nats": float(damage.rise["full - subnetwork"]),
            "without random, nats": float(damage.rise["full - random"]),
            "turn at layer": int(rises.idxmax()) if rises.notna().any() else np.nan,
        }


def surveyed_names(wanted: Sequence[str] = ()) -> dict[str, str]:
    """Names of the models that have subnetworks in the store, with the source of their text.

    Left out are random controls, checkpoints of a model whose last one is there and, with a warning, subnetworks whose text
    cannot be read again.

    Args:
        wanted: only these; none stands for all.

    Raises:
        ValueError: there are none, or one that is wanted is not there.
    """
    found = {(facts["model"], facts["corpus"].removesuffix(" (train)")) for facts in (each.provenance for each in _stored())}
    sources = {}
    for name, source in sorted(found):
        if RANDOM not in name:
            try:
                check_source(source)
                sources[name] = source
            except (ValueError, OSError) as error:
                log.warning("Subnetworks of %r are left out of the survey: %s", name, error)
    sources = {name: source for name, source in sorted(sources.items()) if name.split("@")[0] not in set(sources) - {name}}
    lacking = sorted(set(wanted) - set(sources))
    if lacking or not sources:
        what = f"of {lacking[0]!r}, only of {', '.join(sources) or 'no model'}" if lacking else "of any model"
        raise ValueError(f"The store holds no bigram subnetwork {what}; run notebook 02 on it first.")
    return {name: source for name, source in sources.items() if not wanted or name in wanted}


def survey(name: str, source: str, device: str = "cpu", text_column: str = "text") -> Surveyed:
    """Load a model and all its subnetworks in the store that were trained to the bigram table of this text.

    Raises:
        ValueError: there are none.
    """
    model = load_model(name, device)
    train, evaluation = model.load_corpus(source, text_column=text_column)
    table = BigramTable.from_corpus(train)
    model_hash, weights_hash = model.hash, model.weights_hash
    found: dict[float, Subnetwork] = {}
    for subnetwork in _stored():
        facts = subnetwork.provenance
        if (facts["target_hash"], facts["weights_hash"]) != (table.hash, weights_hash):
            continue
        if facts.get("model_hash", weights_hash) != model_hash:
            continue
        penalty = facts["sparsity_penalty"]
        if penalty not in found or _effort(subnetwork) > _effort(found[penalty]):
            found[penalty] = subnetwork
    if not found:
        raise ValueError(f"The store holds no bigram subnetwork of {name!r} on {source!r}; run notebook 02 on it first.")
    return Surveyed(model, train, evaluation, table, dict(sorted(found.items())))


def _stored() -> list[Subnetwork]:
    """The subnetworks that training left in the store; what is no whole file or cannot be read is left out, with a warning."""
    found = []
    for file in sorted(store_folder("subnetworks").glob("*.safetensors")):
        try:
            found.append(Subnetwork.load(file))
        except (ValueError, OSError) as error:
            log.warning("A file is left out of the survey: %s", error)
    return [subnetwork for subnetwork in found if set(subnetwork.provenance) >= FACTS]


def _effort(subnetwork: Subnetwork) -> tuple[int, int]:
    config = subnetwork.provenance["config"]
    tokens = np.prod([subnetwork.provenance["steps"], config["batch_size"], config["sequence_length"]])
    return int(tokens), -config["seed"]
