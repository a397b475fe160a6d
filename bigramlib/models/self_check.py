"""Whether heads and MLP dimensions of a model are where its layout says, tried out on the model itself as it is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from bigramlib.models.architectures import Architecture
from bigramlib.models.components import ATTENTION_COMPONENTS, WRITING_COMPONENTS, Component
from bigramlib.models.discovery import decoder_of, layers_of
from bigramlib.models.masking import replaced

TOLERANCE = 0.02
"""How much of the effect of a unit may be left when what it writes is dropped: rounding, never another unit's effect."""
SHARED_NORMS = re.compile(r"(^|[._])[qk]_(layer)?norm$")
"""The names of norms of queries and keys, which in some families are taken over all heads together."""


class _LayerEndError(Exception):
    """Ends a forward pass after the layer that is looked at.

    Attributes:
        output: of the layer.
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def check_units(hf: PreTrainedModel, architecture: Architecture, ids: Int[Tensor, "batch pos"], name: str) -> None:
    """Raise ValueError unless heads and MLP dimensions are independent units that lie where the architecture says.

    Once what a unit writes is dropped, dropping what it reads must change nothing more. This is tried in the first layer of
    each kind, for one head (with all that share its keys) and one dimension of an MLP (or of each expert). Norms over all
    heads together are left out meanwhile: they scale heads by one another, but mix nothing.

    Args:
        hf: the model.
        architecture: its layout.
        ids: any tokens, at least two.
        name: what the user calls the model, for messages.
    """
    kinds: set[frozenset] = set()
    here = {parameter for parameter, weight in hf.named_parameters() if not weight.is_meta}
    for layer in range(architecture.layers):
        parts = [part for part in architecture.of_layer(layer) if part.parameter in here]
        kind = frozenset((part.name, part.expert is None) for part in parts)
        for unit, drops in _units(parts).items() if kind not in kinds else ():
            whole, silent, gone = (_output(hf, layer, ids, each) for each in ([], _writing(drops), drops))
            effect, left = float((whole - silent).abs().max()), float((silent - gone).abs().max())
            if left > TOLERANCE * effect + 1e-6 * float(whole.abs().max()):
                raise ValueError(
                    f"{name!r} cannot be used: in layer {layer} of its architecture {architecture.model_type!r} {unit} cannot "
                    "be masked by itself, since the weights that it reads by also change what others write."
                )
        kinds.add(kind)


def _units(parts: list[Component]) -> dict[str, list[tuple[Component, list[int]]]]:
    """Units of a layer that can be tried, each with its components and which of their groups it is."""
    found: dict[str, list[tuple[Component, list[int]]]] = {}
    heads = next((len(part.units) for part in parts if part.name == "o"), 0)
    shared = heads // next((len(part.units) for part in parts if part.name == "k"), heads or 1)
    for part in parts:
        if part.name in ATTENTION_COMPONENTS:
            of_keys = part.name in ("k", "v")
            if not of_keys:
                found.setdefault("a head", []).append((part, [heads - 1]))
            if of_keys or part.name == "o":
                last = [len(part.units) - 1] if of_keys else list(range(heads - shared, heads))
                found.setdefault("a key-value head", []).append((part, last))
        else:
            kind = "a dimension of the MLP" if part.expert is None else "a dimension of the experts"
            found.setdefault(kind, []).append((part, [len(part.units) - 1]))
    return found


def _writing(drops: list[tuple[Component, list[int]]]) -> list[tuple[Component, list[int]]]:
    return [(part, groups) for part, groups in drops if part.name in WRITING_COMPONENTS]


@torch.no_grad()
def _output(
    hf: PreTrainedModel, layer: int, ids: Int[Tensor, "batch pos"], drops: list[tuple[Component, list[int]]]
) -> Float[Tensor, "batch pos d_model"]:
    """What a layer writes out without some units."""
    parameters = dict(hf.named_parameters())
    weights = {part.parameter: parameters[part.parameter].detach().clone() for part, _ in drops}
    for part, groups in drops:
        part.fill_(weights[part.parameter], 0.0, groups)
    module = layers_of(hf)[1][layer]
    with ExitStack() as stack:
        for name, norm in module.named_modules():
            if SHARED_NORMS.search(name):
                stack.callback(norm.register_forward_hook(lambda _, inputs, __: inputs[0]).remove)
        stack.callback(module.register_forward_hook(_leave).remove)
        stack.enter_context(replaced(parameters, weights))
        try:
            decoder_of(hf)[1](ids)
        except _LayerEndError as done:
            return done.output
    raise AssertionError("unreachable: the layer was not run")


def _leave(_: nn.Module, __: object, output: Tensor | Sequence) -> None:
    raise _LayerEndError(output if isinstance(output, Tensor) else output[0])
