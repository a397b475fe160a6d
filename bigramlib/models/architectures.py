"""The one place that knows how each architecture lays out its attention and MLP matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

ATTENTION_COMPONENTS = ("q", "k", "v", "o")
WRITING_COMPONENTS = ("o", "mlp out")
"""Those that write to the residual stream, so that heads and MLP dimensions are their inputs."""


@dataclass(frozen=True)
class Component:
    """One attention or MLP matrix of one layer, as a part of a parameter.

    Attributes:
        layer: from 0.
        name: "q", "k", "v", "o", "mlp in", "mlp gate" or "mlp out".
        parameter: the Hugging Face parameter that holds it.
        axis: the axis of that parameter along which heads or MLP dimensions lie (outputs of q, k, v, mlp in and mlp gate;
            inputs of o and mlp out).
        units: [groups, size] indices along `axis`; a group is an attention head or a single MLP dimension.
    """

    layer: int
    name: str
    parameter: str
    axis: int
    units: Int[np.ndarray, "groups size"]

    @property
    def output_axis(self) -> int:
        """The axis of the parameter along which output units lie, of whatever kind."""
        return 1 - self.axis if self.name in WRITING_COMPONENTS else self.axis

    def of(self, parameter: Tensor, groups: int | list[int] | None = None) -> Tensor:
        """This component's part of a tensor shaped like its parameter (a copy), or only some heads' or dimensions' part."""
        return parameter.index_select(self.axis, self.index(parameter, groups))

    def fill_(self, parameter: Tensor, value: float | bool, groups: int | list[int] | None = None) -> None:
        """Set this component's part of a tensor in place."""
        parameter.index_fill_(self.axis, self.index(parameter, groups), value)

    def index(self, parameter: Tensor, groups: int | list[int] | None = None) -> Tensor:
        """Indices along `axis`, on the tensor's device."""
        units = self.units if groups is None else self.units[groups]
        return parameter.new_tensor(units.reshape(-1), dtype=int)


@dataclass(frozen=True)
class _Layout:
    """Names of the layers, of the matrices inside a layer, and of the final norm; and how matrices are stored.

    `fused` is "thirds" for [Q | K | V], "interleaved" for [q_h0, k_h0, v_h0, q_h1, ...], None for separate matrices.
    `inputs_first` matrices are stored [in, out] (GPT-2's Conv1D) instead of [out, in].
    """

    layers: str
    final_norm: str
    matrices: dict[str, str]
    fused: str | None = None
    inputs_first: bool = False


_LLAMA_LIKE = _Layout(
    "model.layers",
    "model.norm",
    {
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
        "mlp in": "mlp.up_proj", "mlp gate": "mlp.gate_proj", "mlp out": "mlp.down_proj",
    },
)  # fmt: skip

_LAYOUTS: dict[str, _Layout] = {
    "gpt2": _Layout(
        "transformer.h",
        "transformer.ln_f",
        {"qkv": "attn.c_attn", "o": "attn.c_proj", "mlp in": "mlp.c_fc", "mlp out": "mlp.c_proj"},
        fused="thirds",
        inputs_first=True,
    ),
    "gpt_neox": _Layout(
        "gpt_neox.layers",
        "gpt_neox.final_layer_norm",
        {"qkv": "attention.query_key_value", "o": "attention.dense",
         "mlp in": "mlp.dense_h_to_4h", "mlp out": "mlp.dense_4h_to_h"},
        fused="interleaved",
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo", "olmo2"), _LLAMA_LIKE),
}  # fmt: skip


def check_known(model_type: str) -> None:
    """Raise ValueError unless this is an architecture whose layout is known here."""
    if model_type not in _LAYOUTS:
        raise ValueError(
            f"The architecture {model_type!r} is not known; known are {', '.join(sorted(_LAYOUTS))}; to use another one, add "
            "its layout to bigramlib/models/architectures.py."
        )


@dataclass(frozen=True)
class Architecture:
    """The shape of a model, enough to find every head and MLP dimension in its parameters."""

    model_type: str
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    mlp_size: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Architecture:
        """Read the shape from a Hugging Face config.

        Raises:
            ValueError: an architecture whose layout is not known here.
        """
        check_known(config.model_type)
        heads = config.num_attention_heads
        return cls(
            model_type=config.model_type,
            layers=config.num_hidden_layers,
            heads=heads,
            key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            mlp_size=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size,
        )

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Every component, layer by layer; together they cover each maskable weight exactly once."""
        layout = _LAYOUTS[self.model_type]
        output_axis = 1 if layout.inputs_first else 0
        found = []
        for layer in range(self.layers):
            for name, matrix in layout.matrices.items():
                parameter = f"{layout.layers}.{layer}.{matrix}.weight"
                if name == "qkv":
                    found += [
                        Component(layer, part, parameter, output_axis, self._fused_units(layout.fused, place))
                        for place, part in enumerate(("q", "k", "v"))
                    ]
                    continue
                if name in ATTENTION_COMPONENTS:
                    groups = self.key_value_heads if name in ("k", "v") else self.heads
                    units = np.arange(groups * self.head_size).reshape(groups, self.head_size)
                else:
                    units = np.arange(self.mlp_size)[:, None]
                axis = 1 - output_axis if name in WRITING_COMPONENTS else output_axis
                found.append(Component(layer, name, parameter, axis, units))
        return tuple(found)

    @cached_property
    def maskable(self) -> tuple[str, ...]:
        """Names of the maskable parameters (paper: every attention and MLP matrix), in order."""
        return tuple(dict.fromkeys(component.parameter for component in self.components))

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """The attention and MLP modules, each with the names of its maskable parameters, in order."""
        found: dict[str, dict[str, None]] = {}
        for component in self.components:
            found.setdefault(component.parameter.rsplit(".", 2)[0], {})[component.parameter] = None
        return {module: tuple(parameters) for module, parameters in found.items()}

    def within(self, layers: int | None = None, attention: bool = True) -> tuple[str, ...]:
        """The maskable parameters of the first `layers` layers (all, if not given), with or without attention."""
        parts = [part for part in self.components if layers is None or part.layer < layers]
        return tuple(dict.fromkeys(p.parameter for p in parts if attention or p.name not in ATTENTION_COMPONENTS))

    def add_fused_biases(self, hf: PreTrainedModel) -> None:
        """Give fused QKV matrices that have no bias one of zeros, in place: TransformerLens cannot split them without."""
        for component in self.components:
            matrix = hf.get_submodule(component.parameter.removesuffix(".weight"))
            if _LAYOUTS[self.model_type].fused and component.name == "q" and matrix.bias is None:
                matrix.bias = nn.Parameter(matrix.weight.new_zeros(matrix.weight.shape[component.axis]))

    @property
    def final_norm(self) -> str:
        """Name of the module between the last layer and the unembedding."""
        return _LAYOUTS[self.model_type].final_norm

    def _fused_units(self, fused: str | None, place: int) -> Int[np.ndarray, "heads size"]:
        """Where one of q (0), k (1), v (2) lies along the output axis of a fused matrix."""
        within = np.arange(self.head_size)
        heads = np.arange(self.heads)[:, None]
        if fused == "interleaved":
            return (3 * heads + place) * self.head_size + within
        return (place * self.heads + heads) * self.head_size + within
