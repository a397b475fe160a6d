"""Passes of a model of which few weights are left: products with matrices that are mostly zeros leave the zeros out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bigramlib.models.architectures import Architecture, held, holder, is_module
from bigramlib.models.locks import lock_of

FEW = 0.05
"""The share of nonzero weights up to which a sparse product is sooner than a dense one, both by one thread."""


@contextmanager
def sparse_products(hf: PreTrainedModel, architecture: Architecture) -> Iterator[None]:
    """Within the context, maskable matrices that are mostly zeros are multiplied without the zeros.

    Passes give what they give otherwise, to rounding. It is for passes without gradients, while the weights stay as they are.
    Sparse products take one thread, so with many threads only the emptiest matrices are multiplied so, and on a GPU none.

    Args:
        hf: the model.
        architecture: its layout.
    """
    products: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    with lock_of(hf):  # no other thread has its own weights in the model now
        for name in filter(is_module, architecture.maskable):
            module = hf.get_submodule(holder(name))
            if type(module) in (nn.Linear, Conv1D) and "forward" not in vars(module) and _is_sparse(module.weight):
                products[module] = _product(module, goes_on_by_element={*held(name)} <= {"mlp in", "mlp gate"})
        try:
            for module, product in products.items():
                module.forward = product
            yield
        finally:
            for module in products:
                del module.forward


def _is_sparse(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    return int(weight.count_nonzero()) * torch.get_num_threads() <= FEW * weight.numel()


def _product(module: nn.Linear | Conv1D, goes_on_by_element: bool) -> Callable[[Tensor], Tensor]:
    """The forward pass of a module with a sparse matrix.

    Args:
        module: it.
        goes_on_by_element: whether its outputs go on number by number, so that their order in memory may be any.
    """
    weight = module.weight.detach() if isinstance(module, nn.Linear) else module.weight.detach().T
    rows, columns = torch.nonzero(weight, as_tuple=True)
    matrix = csr_array((weight[rows, columns].numpy(), (rows.numpy(), columns.numpy())), shape=weight.shape)

    def product(hidden: Float[Tensor, "*shape inputs"]) -> Float[Tensor, "*shape outputs"]:
        flat = hidden.flatten(0, -2)
        out = torch.from_numpy(matrix @ flat.T.contiguous().numpy()).T
        out = out if goes_on_by_element else out.contiguous()
        return (out if module.bias is None else out + module.bias).view(*hidden.shape[:-1], -1)

    return product
