"""What goes in and out of the layers of a model, by plain hooks: the residual stream, and what comes before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from bigramlib.models.discovery import decoder_of, layers_of


@dataclass
class Pass:
    """What the hooks of `recorded` have seen of the latest forward pass.

    Attributes:
        before: the names of the modules that the tokens went through one after the other, from the embedding layer on, until
            positions were added or the layers began.
        embedded: what the last of these gave, [batch, pos, d_model].
        stream: the residual stream at each layer boundary, from the first layer's input to the last layer's output,
            each [batch, pos, d_model].
        after: the names of the modules beside the layers that ran after the last of them, in order: the final norm, if there
            is one, and a projection, if there is one.
    """

    before: list[str] = field(default_factory=list)
    embedded: Tensor | None = None
    stream: list[Tensor] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


@contextmanager
def recorded(hf: PreTrainedModel) -> Iterator[Pass]:
    """Within the context forward passes of a model are recorded, each in place of the one before."""
    seen = Pass()
    (base, decoder), (within, layers), embedding = decoder_of(hf), layers_of(hf), hf.get_input_embeddings()
    with ExitStack() as stack:
        for name, module in decoder.named_modules(prefix=base):
            if not f"{name}.".startswith(f"{within}."):
                hook = partial(_embed if module is embedding else _continue, seen, name)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        first = layers[0].register_forward_pre_hook(partial(_enter, seen), with_kwargs=True)
        stack.callback(first.remove)
        for layer in layers:
            stack.callback(layer.register_forward_hook(partial(_leave, seen)).remove)
        for part, module in decoder.named_children():
            if module is not layers:
                hook = partial(_note, seen, len(layers) + 1, f"{base}.{part}")
                stack.callback(module.register_forward_hook(hook).remove)
        yield seen


def _embed(seen: Pass, name: str, _: nn.Module, __: object, ___: object, output: Tensor) -> None:
    seen.before[:], seen.embedded = [name], output
    seen.stream.clear()


def _continue(seen: Pass, name: str, _: nn.Module, inputs: tuple, named: dict, output: object) -> None:
    alone = len(inputs) == 1 and not named and inputs[0] is seen.embedded
    if alone and isinstance(output, Tensor) and not seen.stream:
        seen.before.append(name)
        seen.embedded = output


def _enter(seen: Pass, _: nn.Module, inputs: tuple, named: dict) -> None:
    seen.stream[:] = [inputs[0] if inputs else named["hidden_states"]]
    seen.after.clear()


def _leave(seen: Pass, _: nn.Module, __: object, output: Tensor | Sequence) -> None:
    seen.stream.append(output if isinstance(output, Tensor) else output[0])


def _note(seen: Pass, boundaries: int, name: str, *_: object) -> None:
    if len(seen.stream) == boundaries:
        seen.after.append(name)
