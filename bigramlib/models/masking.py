"""Which weights of a model can be masked, and running it with other weights: for one pass, for a while, or without blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from bigramlib.models.architectures import Architecture, held, holder, is_module
from bigramlib.models.components import WRITING_COMPONENTS
from bigramlib.models.locks import lock_of

_RETURNS_OTHERWISE = ("gpt_neox_japanese", "openai-gpt")
"""Types whose attention module returns something else than the pair of what it writes and the attention weights."""


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
    hf: PreTrainedModel, architecture: Architecture, ids: Int[Tensor, "batch pos"], weights: Mapping[str, Tensor]
) -> Float[Tensor, "batch pos d_model"]:
    """The last hidden states, after the final norm, of one pass in which some weights have other values.

    Gradients flow into these values, and the model itself is not changed.

    Args:
        hf: the model.
        architecture: its layout.
        ids: token ids.
        weights: the other values by full parameter name; the rest are the model's own.
    """
    decoder = hf.get_submodule(architecture.decoder)
    inner = {parameter.removeprefix(f"{architecture.decoder}."): value for parameter, value in weights.items()}
    with lock_of(hf):
        return functional_call(decoder, inner, (ids,)).last_hidden_state


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
    """Within the context some attention and MLP blocks are not computed.

    They write what they would write if all their weights were zero: the bias of their output matrix, or nothing. Where a
    block's module does more than that (it adds the residual stream, or is the layer itself), its matrices are skipped one by
    one. Experts that have biases are computed with weights of zero.

    Args:
        hf: the model.
        architecture: its layout.
        blocks: names of blocks, of those in `Architecture.blocks`.
    """
    silent: dict[nn.Module, Callable] = {}
    zeros: dict[str, Tensor] = {}
    parameters, nothing = dict(hf.named_parameters()), dict[tuple, Tensor]()
    anything = hf.get_input_embeddings().weight
    for block in blocks:
        module, names = hf.get_submodule(block), architecture.blocks[block]
        writing = next(name for name in names if held(name)[0] in WRITING_COMPONENTS)
        if not is_module(writing) and any(name.endswith("bias") for name, _ in module.named_parameters()):
            for name in names:
                shape = architecture.shapes[name]
                zeros[name] = nothing.setdefault(shape, anything.new_zeros(shape))
        elif _adds_more(module, block, architecture.model_type):
            silent |= {hf.get_submodule(holder(name)): _silent(hf, architecture, name) for name in names}
        else:
            forward = _silent(hf, architecture, writing)
            silent[module] = partial(_with_weights, forward) if held(writing) == ["o"] else forward
    with lock_of(hf):
        try:
            for module, forward in silent.items():
                module.forward = forward
            for name, zero in zeros.items():
                setattr(hf.get_submodule(holder(name)), name.rpartition(".")[2], nn.Parameter(zero, requires_grad=False))
            yield
        finally:
            for name in zeros:
                setattr(hf.get_submodule(holder(name)), name.rpartition(".")[2], parameters[name])
            for module in silent:
                module.__dict__.pop("forward", None)


def _adds_more(module: nn.Module, block: str, model_type: str) -> bool:
    """Whether a block's module does more than attention or an MLP: it is the layer itself, or adds the residual stream."""
    is_layer = block.rpartition(".")[2].isdigit()
    return is_layer or "residual" in signature(module.forward).parameters or model_type in _RETURNS_OTHERWISE


def _silent(hf: PreTrainedModel, architecture: Architecture, parameter: str) -> Callable[..., Tensor]:
    """The forward pass of a matrix, or of the block that ends with it, if all weights are zero: its bias, or nothing."""
    bias = getattr(hf.get_submodule(holder(parameter)), "bias", None)
    return partial(_constant, bias, architecture.shapes[parameter][architecture.output_axis(parameter)])


def _constant(bias: Tensor | None, width: int, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    nothing = hidden_states.new_zeros(*hidden_states.shape[:-1], width)
    return nothing if bias is None else nothing + bias


def _with_weights(forward: Callable[..., Tensor], *inputs: object, **named: object) -> tuple[Tensor, None]:
    """What attention modules return: what they write, and the attention weights, of which there are none."""
    return forward(*inputs, **named), None
