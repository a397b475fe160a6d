"""The matrices of attention and MLPs: which parts of a model's parameters they are, and where heads and dimensions lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from torch import Tensor

ATTENTION_COMPONENTS = ("q", "k", "v", "attention gate", "o")
MLP_COMPONENTS = ("mlp in", "mlp gate", "mlp out")
COMPONENTS = ATTENTION_COMPONENTS + MLP_COMPONENTS
"""The names of components, in the order in which a layer lists them."""
WRITING_COMPONENTS = ("o", "mlp out")
"""Those that write to the residual stream, so that heads and MLP dimensions are their inputs."""


@dataclass(frozen=True)
class Component:
    """One attention or MLP matrix of one layer, as a part of a parameter.

    Attributes:
        layer: from 0.
        name: one of `COMPONENTS`. "attention gate" is a matrix that scales what heads write.
        parameter: the Hugging Face parameter that holds it.
        axis: the axis of the matrix along which heads or MLP dimensions lie (inputs of o and mlp out, outputs of all others).
        units: [groups, size] indices along `axis`; a group is an attention head or a single MLP dimension.
        expert: which expert of a mixture it belongs to, from 0, where all experts lie in one parameter of three axes; None for
            attention, for ordinary MLPs and for those that stand beside the experts (shared experts).
    """

    layer: int
    name: str
    parameter: str
    axis: int
    units: Int[np.ndarray, "groups size"]
    expert: int | None = None

    @property
    def output_axis(self) -> int:
        """The axis of the matrix along which output units lie, of whatever kind."""
        return 1 - self.axis if self.name in WRITING_COMPONENTS else self.axis

    def matrix(self, parameter: Tensor) -> Tensor:
        """The matrix that this component lies in, of a tensor shaped like its parameter (a view)."""
        return parameter if self.expert is None else parameter[self.expert]

    def of(self, parameter: Tensor, groups: int | list[int] | None = None) -> Tensor:
        """This component's part of a tensor shaped like its parameter (a copy), or only some heads' or dimensions' part."""
        return self.matrix(parameter).index_select(self.axis, self.index(parameter, groups))

    def fill_(self, parameter: Tensor, value: float | bool, groups: int | list[int] | None = None) -> None:
        """Set this component's part of a tensor in place."""
        self.matrix(parameter).index_fill_(self.axis, self.index(parameter, groups), value)

    def index(self, parameter: Tensor, groups: int | list[int] | None = None) -> Tensor:
        """Indices along `axis`, on the tensor's device."""
        units = self.units if groups is None else self.units[groups]
        return parameter.new_tensor(units.reshape(-1), dtype=int)
