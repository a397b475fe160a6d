"""Which few weights of a language model turn the current token into the next?"""

__version__ = "0.2.0"

from bigramlib.analysis.controls import ablate, frontier
from bigramlib.analysis.evaluate import Evaluation, evaluate
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.loading import load_model, randomly_initialized
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable, ModelTarget
from bigramlib.text.corpus import TokenCorpus, load_corpus
from bigramlib.training.search import SparsifyConfig, find_subnetwork

__all__ = [
    "BigramTable",
    "Evaluation",
    "LanguageModel",
    "ModelTarget",
    "SparsifyConfig",
    "Subnetwork",
    "TokenCorpus",
    "ablate",
    "evaluate",
    "find_subnetwork",
    "frontier",
    "load_corpus",
    "load_model",
    "randomly_initialized",
]
