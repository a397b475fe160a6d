"""Which weights of a model can be masked, and running it with other weights: for one pass, for a while, or without blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn, zeros_like
from torch.func import functional_call
from transformers import PreTrainedModel

from bigramlib.models.architectures import WRITING_COMPONENTS, Architecture


def maskable(hf: PreTrainedModel, architecture: Architecture, name: str) -> dict[str, Tensor]:
    """The maskable weight matrices of a model by parameter name, as it has them now.

    Args:
        hf: the model.
        architecture: its layout.
        name: what the user calls it, for messages.

    Raises:
        ValueError: it lacks one.
    """
    parameters = dict(hf.named_parameters())
    if missing := sorted(set(architecture.maskable) - set(parameters)):
        raise ValueError(
            f"The model {name!r} has no parameter {missing[0]!r}, which its architecture "
            f"{architecture.model_type!r} should have; load the unchanged Hugging Face model."
        )
    return {parameter: parameters[parameter] for parameter in architecture.maskable}


def hidden_states(
    hf: PreTrainedModel, ids: Int[Tensor, "batch pos"], weights: Mapping[str, Tensor]
) -> Float[Tensor, "batch pos d_model"]:
    """The last hidden states, after the final norm, of one pass in which some weights have other values.

    Gradients flow into these values, and the model itself is not changed.

    Args:
        hf: the model.
        ids: token ids.
        weights: the other values by full parameter name; the rest are the model's own.
    """
    base = hf.base_model_prefix + "."
    inner = {name.removeprefix(base): value for name, value in weights.items()}
    return functional_call(hf.base_model, inner, (ids,)).last_hidden_state


@contextmanager
def replaced(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context some parameters have other values; afterwards, even after an error, they have their own again.

    Args:
        parameters: of the model, by name.
        weights: the other values by name, shaped like the parameters.
    """
    originals = {name: parameters[name].data for name in weights}
    try:
        for name, weight in weights.items():
            parameters[name].data = weight
        yield
    finally:
        for name, weight in originals.items():
            parameters[name].data = weight


@contextmanager
def skipping(hf: PreTrainedModel, architecture: Architecture, blocks: Iterable[str]) -> Iterator[None]:
    """Within the context some attention and MLP modules are not computed.

    They write what they would write if all their weights were zero: the bias of their output matrix, or nothing.

    Args:
        hf: the model.
        architecture: its layout.
        blocks: names of modules, of those in `Architecture.blocks`.
    """
    writing = [part for part in architecture.components if part.name in WRITING_COMPONENTS]
    parts = {part.parameter.rsplit(".", 2)[0]: part for part in writing}
    modules = {block: hf.get_submodule(block) for block in blocks}
    try:
        for block, module in modules.items():
            bias = getattr(hf.get_submodule(parts[block].parameter.removesuffix(".weight")), "bias", None)
            module.forward = partial(_attention_bias if parts[block].name == "o" else _bias, bias)
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)


def _bias(bias: Tensor | None, hidden_states: Tensor) -> Tensor:
    """The forward pass of an MLP whose weights are all zero."""
    nothing = zeros_like(hidden_states)
    return nothing if bias is None else nothing + bias


def _attention_bias(bias: Tensor | None, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
    """The forward pass of an attention block whose weights are all zero."""
    return _bias(bias, hidden_states), None
