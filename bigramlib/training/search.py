"""Find a subnetwork: look it up in the store, else train its mask and keep it there with how it came about.

The algorithm is continuous sparsification (Savarese et al. 2020) as used by Chang & Bergen (2025); `gates.py` has its steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from bigramlib.models.language_model import LanguageModel
from bigramlib.models.locks import one_at_a_time
from bigramlib.numeric import Number, percent
from bigramlib.saved_state import unfinished
from bigramlib.store import check_writable, locked, store_folder
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.target import Target
from bigramlib.text.corpus import TokenCorpus
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.loop import train
from bigramlib.training.ranks import ALONE, Ranks
from bigramlib.training.results import key_facts, store_key, stored_subnetwork, warn_of_earlier
from bigramlib.training.run import NoState, Run, SavedState
from bigramlib.training.stopping import is_unstable
from bigramlib.training.wished_density import checked_density, with_density
from bigramlib.version import __version__

log = logging.getLogger(__name__)


@one_at_a_time
def find_subnetwork(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    config: SparsifyConfig | None = None,
    *,
    density: Number | None = None,
    start: Subnetwork | None = None,
    ranks: Ranks = ALONE,
) -> Subnetwork:
    """Train a mask over the model's attention and MLP matrices so that what is kept predicts the target.

    The result is kept in the store under a key made of the model's weights, target, corpus, config and start. Asking again with
    the same returns it; a run that was interrupted is continued to the same bits. A second process that asks meanwhile waits.
    A damaged file in the store is renamed and the run repeated. The model's own weights never change. A store that holds the
    result need not be writable. Threads that search one model do it one after the other.

    Args:
        model: the frozen model.
        target: what the subnetwork should predict.
        corpus: training text (of which, with `flattening`, only the unigram distribution is used).
        config: the schedule; `SparsifyConfig.suited` to model and target if not given.
        density: the share of the maskable weights to keep, above 0 and below 1, in place of a lambda in the config. Lambda is
            searched in six runs at most, until the density is within 5 % of the wish. All runs are kept in the store. If none
            comes so near, the nearest is returned, with a warning.
        start: a subnetwork of this model near which gates start (`gates.KEPT_GATE`), not at 1/2, such as one whose search ended
            undecided; or `config.start`. All steps are taken; a large `first_beta` and small learning rate keep gates near it.
        ranks: the processes that search together (`ranks.joined`), each of which calls this with the same arguments.

    Returns:
        A subnetwork whose provenance has the config, whether the gates were decided in time (`converged`), and its `history`.

    Raises:
        FloatingPointError: weights or the loss are not finite, no weight changes the loss, or the target is no distribution.
        OSError: what the store holds cannot be read just now, or the store cannot be written.
        MemoryError: not even one sequence at a time fits into memory (a batch that does not is taken in several passes).
        ValueError: corpus, target, start and config are not for this model, or no search with this config gives the density.

    Example:
        >>> subnetwork = find_subnetwork(model, table, corpus, SparsifyConfig.suited(model, table, 30))
        >>> subnetwork.provenance["sparsity_penalty"]
        30.0
    """
    config = config or SparsifyConfig.suited(model, target)
    _check(model, corpus, config, start)
    search = partial(_find, model, target, corpus, start, ranks)
    if density is None:
        return search(config)
    density = checked_density(density, config, model)
    return with_density(density, lambda penalty: search(replace(config, sparsity_penalty=penalty)))


def _find(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    start: Subnetwork | None,
    ranks: Ranks,
    config: SparsifyConfig,
) -> Subnetwork:
    """The subnetwork of one lambda: from the store, or trained and kept there; before it, that of the search it starts from."""
    if config.start:
        start = _find(model, target, corpus, None, ranks, config.start)
    model_facts = model.facts()
    facts = key_facts(model_facts, target, corpus, config, start.hash if start else None)
    file = store_folder("subnetworks") / f"{store_key(facts)}.safetensors"
    attempt = partial(train, model, target, corpus, config, start)
    if not ranks.leads:
        return _followed(attempt, file, facts, ranks)
    with _told(ranks, file):
        if stored := stored_subnetwork(file, facts, aside=False):
            return stored
        return _made(
            attempt, partial(_record, model, target, corpus, config, start, model_facts, facts), config, file, facts, ranks
        )


def _made(
    attempt: Callable[..., Subnetwork],
    record: Callable[[Run], dict],
    config: SparsifyConfig,
    file: Path,
    facts: dict,
    ranks: Ranks,
) -> Subnetwork:
    """A subnetwork that the store did not hold a moment ago, trained and written into it.

    Args:
        attempt: trains a mask once (`train`).
        record: its provenance.
        config: says how many attempts there are.
        file: where it is to lie.
        facts: its `key_facts`.
        ranks: the processes.
    """
    with locked(file):
        if stored := stored_subnetwork(file, facts):
            return stored
        check_writable(file.parent)
        warn_of_earlier(file, facts)
        saved_state = SavedState(unfinished(file.name))
        subnetwork, run = _trained(attempt, config, saved_state, ranks)
        divided = {"processes": ranks.count} if ranks.divide(config.batch_size) else {}  # their sums round otherwise
        subnetwork = replace(subnetwork, provenance=record(run) | divided)
        subnetwork.save(file)
        saved_state.remove()
    return subnetwork


@contextmanager
def _told(ranks: Ranks, file: Path) -> Iterator[None]:
    """At the end of the block, which leaves a subnetwork in a file, tell the other processes."""
    yield
    ranks.tell({"file": file.name})


def _trained(
    attempt: Callable[..., Subnetwork], config: SparsifyConfig, saved_state: SavedState, ranks: Ranks
) -> tuple[Subnetwork, Run]:
    """The result of the first attempt that is stable, or, with a warning, of the last; continued from a saved state, if any."""
    run, tensors = saved_state.load() or (Run(), None)
    while True:
        ranks.tell({"file": saved_state.file.name, "run": asdict(run), "continued": tensors is not None})
        subnetwork = attempt(run, tensors, saved_state, ranks)
        unstable = _unstable(run, config)
        if not unstable or run.attempt + 1 >= config.attempts:
            break
        run, tensors = Run(run.attempt + 1), None
    if unstable:
        log.warning(
            "The loss of this search (lambda %g, seed %d) jumped and stayed high, so the subnetwork may be worse than another "
            "seed's: try one, or set attempts to %d, with which such a search is repeated on other batches.",
            config.sparsity_penalty,
            config.seed,
            config.attempts + 2,
        )
    if not run.converged and config.undecided_share >= 0:
        log.warning(
            "This search (lambda %g, seed %d) ended before its gates were decided: %s of the weights are kept, %s undecided. "
            "The mask keeps or drops these all the same, and may predict much worse than the loss at the end says; take more "
            "steps or a larger final_beta, or search again from this subnetwork, with start=.",
            config.sparsity_penalty,
            config.seed,
            *map(percent, run.history[-1][2:]),
        )
    return subnetwork, run


def _check(model: LanguageModel, corpus: TokenCorpus, config: SparsifyConfig, start: Subnetwork | None) -> None:
    """Raise ValueError unless a model can be searched on a corpus with this config, from this start if there is one."""
    model.check_vocabulary(corpus)
    model.check_length(config.sequence_length)
    if config.start:
        if start:
            raise ValueError("Both start and config.start say what to start from; leave one out.")
        _check(model, corpus, config.start, None)
    if not start:
        return
    start.check_fits(model)
    searched = set(model.architecture.within(config.layers, config.attention))
    if outside := next((name for name, mask in start.masks.items() if name not in searched and mask.any()), None):
        raise ValueError(
            f"The search cannot start from this subnetwork, which keeps weights of {outside!r}: the config drops them. Set "
            "layers and attention in the config so that they are searched."
        )


def _unstable(run: Run, config: SparsifyConfig) -> bool:
    return is_unstable(run.losses, config.batch_size * config.sequence_length)


def _followed(attempt: Callable[..., Subnetwork], file: Path, facts: dict, ranks: Ranks) -> Subnetwork:
    """What rank 0 finds: train with it as often as it trains, then read its file.

    Raises:
        ValueError: it searches something else.
        FileNotFoundError: its store is not the one here.
    """
    while True:
        message = ranks.tell()
        if message["file"] != file.name:
            raise ValueError("The processes were asked for different searches; give all the same model, text and settings.")
        if "run" not in message:
            break
        attempt(Run.of(message["run"]), {} if message["continued"] else None, NoState(file), ranks)
    if found := stored_subnetwork(file, facts, aside=False):
        return found
    raise FileNotFoundError(
        f"{str(file)!r} is not here, though another process of this search has written it; set BIGRAMLIB_STORE to a folder "
        "that all processes see."
    )


def _record(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    config: SparsifyConfig,
    start: Subnetwork | None,
    model_facts: dict,
    facts: dict,
    run: Run,
) -> dict:
    """What a subnetwork records of how it was found; `facts` are its `key_facts`.

    Raises:
        ValueError: the model was changed meanwhile.
    """
    if key_facts(model.facts(), target, corpus, config, facts.get("start_hash")) != facts:
        raise ValueError(
            f"The model {model.name!r} was changed while its mask was trained, so nothing was stored; load it anew, and "
            "leave it alone meanwhile."
        )
    return {
        "model_hash": facts["weights_hash"],
        **model_facts,
        "corpus": corpus.name,
        "corpus_source": corpus.source,
        **facts,
        "sparsity_penalty": config.sparsity_penalty,
        "attempt": run.attempt,
        "unstable": _unstable(run, config),
        "library": f"bigramlib {__version__}",
        "steps": run.step,
        "converged": run.converged,
        "history": run.history,
        **({"passes": run.passes} if run.passes > 1 else {}),
        **({"start": {name: fact for name, fact in start.provenance.items() if name != "history"}} if start else {}),
    }
