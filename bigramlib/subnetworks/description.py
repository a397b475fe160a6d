"""A subnetwork in words: what Python prints of it, and what notebooks and model cards state."""

from __future__ import annotations

from bigramlib.numeric import percent
from bigramlib.subnetworks.provenance import model_of


def title(provenance: dict) -> str:
    """What a subnetwork is: the model that it is of, and how it was made if not by training."""
    model, origin = model_of(provenance), provenance.get("origin")
    return f"Subnetwork of {model!r}" + (f" ({origin})" if origin else "")


def size(kept: int, total: int) -> str:
    """How many weights are kept, of how many."""
    return f"{kept:,} of {total:,} maskable weights ({percent(kept / total)})"


def line(provenance: dict, measured: dict, kept: int, total: int) -> str:
    """A subnetwork in one line: its model, its size, and, where they are known, its lambda and its bigram correlation."""
    parts = [size(kept, total)]
    if "sparsity_penalty" in provenance:
        parts.append(f"lambda {provenance['sparsity_penalty']:g}")
    if "r" in measured:
        parts.append(f"r {measured['r']:.3f}")
    return f"{title(provenance)}: {', '.join(parts)}"


def facts(provenance: dict, measured: dict, kept: int, total: int, first_mlp: float) -> dict[str, str]:
    """What is known of a subnetwork, for people: names and texts, without hashes and history.

    Args:
        provenance: of the subnetwork.
        measured: what was measured of it.
        kept: how many weights.
        total: of how many.
        first_mlp: the share of the kept weights that lies in the first layer's MLP.
    """
    found = {"kept": size(kept, total), "in the first MLP": f"{percent(first_mlp, 1)} of the kept weights"}
    if "sparsity_penalty" in provenance:
        found["lambda"] = f"{provenance['sparsity_penalty']:g}"
    if "r" in measured:
        low, high = measured["r_interval"]
        found["bigram correlation r"] = (
            f"{measured['r']:.3f} ({low:.3f} to {high:.3f}) on {measured['tokens']:,} tokens of {measured['text']}"
        )
    if "corpus" in provenance:
        found["found on"] = str(provenance["corpus"])
    if "steps" in provenance:
        decided = "all gates decided" if provenance.get("converged") else "not all gates decided"
        start = ", started from another subnetwork" if "start" in provenance else ""
        found["training"] = f"{provenance['steps']} steps, {decided}{start}"
    return found
