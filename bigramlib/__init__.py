"""Which few weights of a language model turn the current token into the next?"""

from bigramlib.analysis.controls import ablate, frontier, smallest_reaching
from bigramlib.analysis.evaluate import Evaluation, evaluate
from bigramlib.analysis.overlap import overlap_test
from bigramlib.findings.explore import explore
from bigramlib.findings.study import Study
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.loading import load_model
from bigramlib.models.random_weights import randomly_initialized
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.targets.full_model import ModelTarget
from bigramlib.targets.function import FunctionTarget
from bigramlib.targets.trigram import TrigramTable
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.loading import load_corpus
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.search import find_subnetwork
from bigramlib.version import __version__ as __version__

__all__ = [
    "BigramTable",
    "Evaluation",
    "FunctionTarget",
    "LanguageModel",
    "ModelTarget",
    "SparsifyConfig",
    "Study",
    "Subnetwork",
    "TokenCorpus",
    "TrigramTable",
    "ablate",
    "evaluate",
    "explore",
    "find_subnetwork",
    "frontier",
    "load_corpus",
    "load_model",
    "overlap_test",
    "randomly_initialized",
    "smallest_reaching",
]
