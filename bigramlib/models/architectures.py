"""How architectures lay out their attention and MLP matrices: told from the names and shapes of parameters.

What names and shapes cannot tell is listed here by model type: the order inside matrices that hold several components, and
which matrices are stored [in, out].
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from jaxtyping import Int

from bigramlib.models.components import ATTENTION_COMPONENTS, COMPONENTS, MLP_COMPONENTS, WRITING_COMPONENTS, Component

_ATTENTION = {
    "q": "q_proj Wq",
    "k": "k_proj Wk",
    "v": "v_proj Wv",
    "q, k, v": "c_attn query_key_value Wqkv qkv_proj",
    "attention gate": "gate_proj g_proj",
    "o": "o_proj out_proj c_proj dense Wo",
}
_MLP = {
    "mlp in": "up_proj fc1 c_fc fc_in dense_h_to_4h w3",
    "mlp gate": "gate_proj w1",
    "mlp gate, mlp in": "gate_up_proj input_linear Wi",
    "mlp out": "down_proj fc2 c_proj fc_out dense_4h_to_h w2 output_linear Wo",
}
"""What matrices are called, by the components that they hold. A gate is what goes through the activation function."""
_FUSED = {
    **dict.fromkeys(("gpt2", "gpt-sw3", "openai-gpt", "mpt", "phi3", "phi4_multimodal"), ("qkv", 1)),
    **dict.fromkeys(("gpt_neox", "gpt_neox_japanese", "bloom", "falcon", "gpt_bigcode", "persimmon"), ("qkv", None)),
    "codegen": ("qvk", 4),
}
"""How matrices that hold q, k and v do: in which order, and in how many groups of heads (None: one a key-value head)."""
_INPUTS_FIRST = ("gpt2", "gpt-sw3", "openai-gpt")
"""Types whose matrices are stored [in, out] (GPT-2's Conv1D) instead of [out, in]."""
_EXPERTS_INPUTS_FIRST = ("gpt_oss", "llama4_text", "aria_text")
"""Types whose experts are stored [expert, in, out] instead of [expert, out, in]."""
_ALTERNATING = ("gpt_oss",)
"""Types in whose experts gate and in alternate, dimension by dimension, instead of all gates coming first."""


def held(parameter: str) -> list[str]:
    """The components that a parameter holds, by its name; none if it is no such matrix."""
    path, _, name = parameter.removesuffix(".weight").rpartition(".")
    kind = _ATTENTION if re.search("attn|attention", path) else _MLP
    return next((parts.split(", ") for parts, names in kind.items() if name in names.split()), [])


def is_fused_known(model_type: str) -> bool:
    """Whether it is known how q, k and v lie in one matrix in this type of model."""
    return model_type in _FUSED


@dataclass(frozen=True)
class Architecture:
    """The shape of a model, enough to find every head and MLP dimension in its parameters.

    Attributes:
        model_type: the Hugging Face name of the architecture, of its text part where it has others.
        layers: how many.
        heads, key_value_heads, head_size: of the first layer with attention; elsewhere they may differ (see `components`).
        mlp_size: dimensions of the first MLP, or of one of its experts.
        shapes: of the maskable parameters (paper: every attention and MLP matrix) by name, in order.
    """

    model_type: str
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    mlp_size: int
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False, hash=False)

    @classmethod
    def of(cls, model_type: str, layers: int, heads: int, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
        """The architecture of a model with these maskable parameters.

        Args:
            model_type: the Hugging Face name of the architecture.
            layers: how many.
            heads: attention heads of a layer.
            shapes: of the maskable parameters.

        Raises:
            ValueError: these sizes do not fit each other.
        """
        draft = cls(model_type, layers, heads, heads, 1, 1, shapes)
        first = {part: name for name in reversed(list(shapes)) for part in held(name)}
        lengths = {part: shapes[name][-2:][draft.axis(name)] for part, name in first.items()}
        if not {"q", "k", "v", "o", "mlp in", "mlp out"} <= set(lengths):
            raise ValueError("it lacks attention or an MLP")
        fused = first["q"] == first["k"]
        head_size = lengths["o" if fused else "q"] // heads
        key_value_heads = (lengths["q"] // head_size - heads) // 2 if fused else lengths["k"] // head_size
        found = cls(model_type, layers, heads, key_value_heads, head_size, lengths["mlp out"], shapes)
        if heads % key_value_heads or any(part.units.size == 0 for part in found.components):
            raise ValueError("its heads are not shared evenly")
        return found

    @property
    def facts(self) -> dict[str, str | int]:
        """All but the shapes, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "shapes"}

    @property
    def maskable(self) -> tuple[str, ...]:
        """Names of the maskable parameters, in order."""
        return tuple(self.shapes)

    @property
    def size(self) -> int:
        """How many weights the maskable parameters have."""
        return sum(map(math.prod, self.shapes.values()))

    @cached_property
    def decoder(self) -> str:
        """The name of the module that takes token ids to last hidden states: it holds the stack of layers."""
        stack = re.split(r"\.\d+\.", self.maskable[0])[0]
        return stack.rpartition(".")[0]

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Every component, layer by layer; together they cover each maskable weight exactly once."""
        found = []
        for parameter, shape in self.shapes.items():
            units = self._units(parameter, shape)
            found += [
                Component(layer_of(parameter), name, parameter, self.axis(parameter), each, expert)
                for expert in (range(shape[0]) if len(shape) == 3 else [None])
                for name, each in zip(held(parameter), units, strict=True)
            ]
        return tuple(found)

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """The attention and MLP blocks, each with the names of its maskable parameters, in order.

        A block is named after the module that holds its matrices. Where an MLP has none of its own, that is the layer.
        """
        found: dict[str, list[str]] = {}
        for parameter in self.shapes:
            module = holder(parameter)
            block = module.rpartition(".")[0] if is_module(parameter) else module
            found.setdefault(block, []).append(parameter)
        return {module: tuple(parameters) for module, parameters in found.items()}

    def within(self, layers: int | None = None, attention: bool = True) -> tuple[str, ...]:
        """The maskable parameters of the first `layers` layers (all, if not given), with or without attention."""
        return tuple(name for name in self.shapes if is_within(name, layers, attention))

    def axis(self, parameter: str) -> int:
        """The axis of a parameter's matrices along which heads or MLP dimensions lie (see `Component`)."""
        experts = len(self.shapes[parameter]) == 3
        inputs_first = self.model_type in (_EXPERTS_INPUTS_FIRST if experts else _INPUTS_FIRST)
        return int((held(parameter)[0] in WRITING_COMPONENTS) != inputs_first)

    def output_axis(self, parameter: str) -> int:
        """The axis of a parameter along which what it computes lies, counted from the end."""
        axis = self.axis(parameter)
        return (1 - axis if held(parameter)[0] in WRITING_COMPONENTS else axis) - 2

    def of_layer(self, layer: int) -> list[Component]:
        """The components of one layer."""
        return [part for part in self.components if part.layer == layer]

    def _units(self, parameter: str, shape: tuple[int, ...]) -> list[Int[np.ndarray, "groups size"]]:
        """Where the units of each component that a parameter holds lie along its axis, alike in all experts."""
        parts, rows = held(parameter), shape[-2:][self.axis(parameter)]
        if parts[0] in MLP_COMPONENTS:
            dimensions = np.arange(rows)[:, None]
            if len(shape) == 3 and self.model_type in _ALTERNATING:
                return [dimensions[part :: len(parts)] for part in range(len(parts))]
            return np.split(dimensions, len(parts))
        return self._fused_heads(rows) if len(parts) > 1 else [self._heads(parts[0], layer_of(parameter), rows)]

    def _heads(self, name: str, layer: int, rows: int) -> Int[np.ndarray, "heads size"]:
        """Where heads lie along an axis in a matrix of their own. Layers may have heads of different sizes."""
        heads = self.heads
        if name in ("k", "v"):
            sizes = {held(other)[0]: shape[0] for other, shape in self.shapes.items() if layer_of(other) == layer}
            heads = sizes["k"] * self.heads // sizes["q"] if "k" in sizes and "q" in sizes else self.key_value_heads
        return np.arange(rows).reshape(heads, -1)

    def _fused_heads(self, rows: int) -> list[Int[np.ndarray, "heads size"]]:
        """Where heads of q, k and v lie along the axis that they share."""
        order, groups = _FUSED[self.model_type]
        groups = groups or self.key_value_heads
        counts = {name: (self.heads if name == "q" else self.key_value_heads) // groups for name in order}
        size = rows // (groups * sum(counts.values()))
        found = {}
        for name in order:
            head = np.arange(counts[name] * groups)
            before = sum(counts[other] for other in order[: order.index(name)])
            head = head // counts[name] * sum(counts.values()) + before + head % counts[name]
            found[name] = head[:, None] * size + np.arange(size)
        return [found[name] for name in "qkv"]


def is_within(parameter: str, layers: int | None, attention: bool) -> bool:
    """Whether a maskable parameter is of the first `layers` layers (None: of any), with or without attention."""
    return (layers is None or layer_of(parameter) < layers) and (attention or held(parameter)[0] not in ATTENTION_COMPONENTS)


def layer_of(parameter: str) -> int:
    """The number of the layer that a parameter belongs to: the first number in its name."""
    found = re.search(r"\.(\d+)\.", parameter)
    if found is None:
        raise ValueError(f"The parameter {parameter!r} is of no layer.")
    return int(found[1])


def is_module(parameter: str) -> bool:
    """Whether a maskable parameter is the weight of a module of its own, not one of several of its module."""
    return parameter.endswith(".weight")


def holder(parameter: str) -> str:
    """The name of the module that a maskable parameter belongs to."""
    return parameter.rpartition(".")[0]


def in_order(parameters: list[str]) -> list[str]:
    """Maskable parameters layer by layer, and within a layer by their components, as `COMPONENTS` lists them."""
    return sorted(parameters, key=lambda name: (layer_of(name), min(COMPONENTS.index(part) for part in held(name))))
