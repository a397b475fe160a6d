"""Which few weights of a language model turn the current token into the next?"""

from importlib import import_module
from typing import TYPE_CHECKING

from bigramlib.version import __version__ as __version__

if TYPE_CHECKING:
    from bigramlib.analysis.controls import ablate as ablate
    from bigramlib.analysis.controls import frontier as frontier
    from bigramlib.analysis.controls import smallest_reaching as smallest_reaching
    from bigramlib.analysis.evaluate import Evaluation as Evaluation
    from bigramlib.analysis.evaluate import evaluate as evaluate
    from bigramlib.analysis.overlap import overlap_test as overlap_test
    from bigramlib.findings.explore import explore as explore
    from bigramlib.findings.study import Study as Study
    from bigramlib.models.language_model import LanguageModel as LanguageModel
    from bigramlib.models.loading import load_model as load_model
    from bigramlib.models.random_weights import randomly_initialized as randomly_initialized
    from bigramlib.subnetworks.subnetwork import Subnetwork as Subnetwork
    from bigramlib.targets.bigram import BigramTable as BigramTable
    from bigramlib.targets.full_model import ModelTarget as ModelTarget
    from bigramlib.targets.function import FunctionTarget as FunctionTarget
    from bigramlib.targets.trigram import TrigramTable as TrigramTable
    from bigramlib.text.corpus import TokenCorpus as TokenCorpus
    from bigramlib.text.loading import load_corpus as load_corpus
    from bigramlib.training.config import SparsifyConfig as SparsifyConfig
    from bigramlib.training.search import find_subnetwork as find_subnetwork

MODULES = {
    "BigramTable": "targets.bigram",
    "Evaluation": "analysis.evaluate",
    "FunctionTarget": "targets.function",
    "LanguageModel": "models.language_model",
    "ModelTarget": "targets.full_model",
    "SparsifyConfig": "training.config",
    "Study": "findings.study",
    "Subnetwork": "subnetworks.subnetwork",
    "TokenCorpus": "text.corpus",
    "TrigramTable": "targets.trigram",
    "ablate": "analysis.controls",
    "evaluate": "analysis.evaluate",
    "explore": "findings.explore",
    "find_subnetwork": "training.search",
    "frontier": "analysis.controls",
    "load_corpus": "text.loading",
    "load_model": "models.loading",
    "overlap_test": "analysis.overlap",
    "randomly_initialized": "models.random_weights",
    "smallest_reaching": "analysis.controls",
}
"""Where each public name is. It is imported when it is first asked for, because transformers and SciPy take seconds."""

__all__ = [*MODULES]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
