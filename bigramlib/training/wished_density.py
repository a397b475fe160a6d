"""A subnetwork of a wished density: the lambda that gives it, found in few runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import number, percent
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.training.config import SparsifyConfig

TOLERANCE = 0.05
"""By which share of the wished density the one that is found may miss it."""
MOST_RUNS = 6
FIRST_SLOPE = -0.7
"""How log density changes with log lambda, as long as nothing is measured; on mini it is -0.9 to -0.4."""
LARGEST_STEP = 30.0
"""By which factor lambda goes beyond those that are known, at most."""
NEAREST_TO_KNOWN = 0.1
"""How near the next lambda comes to a known one, as a share of the way between two, so that a step in the density is found."""
log = logging.getLogger(__name__)


def checked_density(density: object, config: SparsifyConfig, model: LanguageModel) -> float:
    """A wished density as a plain number.

    Args:
        density: what was wished.
        config: the settings of the search.
        model: the model that is searched.

    Raises:
        ValueError: no search with these settings finds it.
    """
    wish = float(number("density", density))
    if not 0 < wish < 1:
        raise ValueError(
            f"density is {wish:g}; it must lie between 0 and 1, such as 0.01 for 1 %. Use Subnetwork.empty or Subnetwork.full "
            "for the limits."
        )
    if config.sparsity_penalty != SparsifyConfig.sparsity_penalty:
        raise ValueError(
            f"Both density ({wish:g}) and sparsity_penalty ({config.sparsity_penalty:g}) are given, but the one decides the "
            "other; leave sparsity_penalty out of the config, or density out of the call."
        )
    sizes = {name: weight.numel() for name, weight in model.maskable.items()}
    searched = sum(sizes[name] for name in model.architecture.within(config.layers, config.attention)) / sum(sizes.values())
    if wish > searched:
        raise ValueError(
            f"density is {wish:g}, but only {percent(searched)} of the maskable weights are searched; wish for less, or set "
            "layers and attention in the config."
        )
    return wish


def with_density(density: float, search: Callable[[float], Subnetwork]) -> Subnetwork:
    """The subnetwork whose density is nearest to a wished one, among those of at most `MOST_RUNS` searches.

    Each next lambda is interpolated between the two found densities that lie around the wish, all on log scales.
    It ends once one is within `TOLERANCE` of the wish. If none is, a warning says so.

    Args:
        density: the wish, above 0 and below 1.
        search: finds the subnetwork of a lambda.
    """
    found: dict[float, Subnetwork] = {}
    penalty = SparsifyConfig.sparsity_penalty
    while penalty not in found and len(found) < MOST_RUNS:
        found[penalty] = search(penalty)
        if abs(found[penalty].density - density) <= TOLERANCE * density:
            return found[penalty]
        penalty = next_penalty({each: _positive_density(one) for each, one in found.items()}, density)
    nearest = min(found.values(), key=lambda one: abs(math.log(_positive_density(one) / density)))
    log.warning(
        "No search of %d kept %s of the weights; the nearest kept %s, at lambda %g.",
        len(found),
        percent(density),
        percent(nearest.density),
        nearest.provenance["sparsity_penalty"],
    )
    return nearest


def next_penalty(densities: dict[float, float], wish: float) -> float:
    """The lambda to try next, rounded to three digits: between those that keep too much and those that keep too little.

    Args:
        densities: what was found, by lambda; none of it zero.
        wish: the wished density.
    """
    found = [(math.log(penalty), math.log(density / wish)) for penalty, density in densities.items()]
    too_dense, too_sparse = ([point for point in found if point[1] * sign > 0] for sign in (1, -1))
    if too_dense and too_sparse and max(too_dense) < min(too_sparse):
        (left, above), (right, below) = max(too_dense), min(too_sparse)
        place = left + (right - left) * min(max(above / (above - below), NEAREST_TO_KNOWN), 1 - NEAREST_TO_KNOWN)
    else:
        place = _beyond(found)
    return float(f"{math.exp(place):.3g}")


def _beyond(found: list[tuple[float, float]]) -> float:
    """The log of the lambda to try next where all found densities lie on one side of the wish.

    Args:
        found: (log of lambda, log of density over wish).
    """
    (place, gap), *others = sorted(found, key=lambda point: (abs(point[1]), -point[0] if point[1] > 0 else point[0]))
    slope = (others[0][1] - gap) / (others[0][0] - place) if others else FIRST_SLOPE
    step = -gap / (slope if slope < 0 else FIRST_SLOPE)
    return place + max(-math.log(LARGEST_STEP), min(step, math.log(LARGEST_STEP)))


def _positive_density(subnetwork: Subnetwork) -> float:
    """Its density, that of half a weight if it keeps none, so that there is a logarithm."""
    return max(subnetwork.kept, 0.5) / subnetwork.total
