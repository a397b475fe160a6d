"""A GPU that is not there: its tensors lie in the CPU's memory, but mixing devices and reading them by NumPy raise as on a GPU.

It also notes what would make the program wait for the GPU. Values are real, so that whole runs can be compared with the CPU's.
PyTorch's `FakeTensorMode` cannot stand for a GPU here: without a CUDA build, a backward pass ends the process.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
NEEDS_VALUES = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
}
"""Operations whose result, or its shape, the program waits for."""
BETWEEN = ("torch.", "jaxtyping.", "beartype", "contextlib", f"{__name__}.")
"""Modules that stand between a call and who made it."""


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of both devices."""


class PretendedGPU:
    """Which tensors lie on the GPU, and what waited for it.

    Attributes:
        waits: what waited for the GPU, in order: the module that asked for it, and the operation.
    """

    def __init__(self) -> None:
        self.waits: list[tuple[str, str]] = []
        self._held: dict[int, StorageWeakRef] = {}
        self._pinned: dict[int, StorageWeakRef] = {}

    def holds(self, tensor: object) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._held

    def put(self, tensor: Tensor) -> Tensor:
        return _noted(tensor, self._held)

    def pin(self, tensor: Tensor) -> Tensor:
        return _noted(tensor.clone(), self._pinned)

    def moved(self, tensor: Tensor, result: Tensor, to_gpu: bool, non_blocking: bool) -> Tensor:
        """What a tensor becomes on the other device, of which `result` is the form that was asked for."""
        result = result.clone() if result.untyped_storage()._cdata == tensor.untyped_storage()._cdata else result
        self.note_copy(tensor, to_gpu, non_blocking)
        if to_gpu:
            return self.put(result)
        self._held.pop(result.untyped_storage()._cdata, None)
        return result

    def note_copy(self, source: Tensor, to_gpu: bool, non_blocking: bool) -> None:
        """A copy waits, unless it goes from pinned memory to the GPU and need not."""
        if not (to_gpu and non_blocking and source.untyped_storage()._cdata in self._pinned):
            self.note_wait("upload" if to_gpu else "download")

    def note_wait(self, operation: str) -> None:
        frame = sys._getframe(1)
        while f"{(module := frame.f_globals['__name__'])}.".startswith(BETWEEN) and frame.f_back:
            frame = frame.f_back
        self.waits.append((module, operation))


def _noted(tensor: Tensor, places: dict[int, StorageWeakRef]) -> Tensor:
    """A tensor, after its storage was noted; the reference keeps the storage's number from being used again."""
    reference = StorageWeakRef(tensor.untyped_storage())
    places[reference.cdata] = reference
    return tensor


class _Operations(TorchDispatchMode):
    """Below autograd: results of what lies on the GPU lie there too, and no operation takes tensors of both devices."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = [self.gpu.holds(tensor) for tensor in tensors]
        if any(on_gpu) and not all(on_gpu):
            self._check_mix(func, args, kwargs, tensors)
        if any(on_gpu) and (func in NEEDS_VALUES or (func is aten.index.Tensor and _by_truth(args[1]))):
            self.gpu.note_wait(func.overloadpacket.__name__)
        before = {tensor.untyped_storage()._cdata for tensor in tensors}
        result = func(*args, **kwargs)
        for made in tree_leaves(result):
            if any(on_gpu) and isinstance(made, Tensor) and made.untyped_storage()._cdata not in before:
                self.gpu.put(made)
        return result

    def _check_mix(self, func, args, kwargs, tensors) -> None:
        """Numbers of the CPU may be read by an operation on the GPU, and `copy_` copies; all else raises."""
        if func is aten.copy_.default:
            self.gpu.note_copy(args[1], self.gpu.holds(args[0]), kwargs.get("non_blocking", len(args) > 2 and args[2]))
            return
        given = [*zip(func._schema.arguments, args, strict=False)]
        given += [(argument, kwargs[argument.name]) for argument in func._schema.arguments if argument.name in kwargs]
        written = [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]
        apart = [tensor for tensor in tensors if not self.gpu.holds(tensor)]
        if any(tensor.ndim for tensor in apart) or any(tensor is leaf for tensor in apart for leaf in tree_leaves(written)):
            raise MixedDevicesError(f"{func} was given tensors on the CPU and on the GPU")


def _by_truth(indices) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


class _Calls(TorchFunctionMode):
    """What Python asks of torch: where a tensor is, tensors on the GPU, copies between the devices, and values."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = args[0] if args else None
        held = self.gpu.holds(first)
        if (attribute := getattr(func, "__self__", None)) is Tensor.device:
            return GPU if held else CPU
        if attribute is Tensor.is_cuda:
            return held
        if func is torch._C._nn._parse_to:  # reads the arguments of Module.to, which then moves each parameter
            return func(*args, **kwargs)
        if func is Tensor.backward:  # with this mode on, as the hooks within it run Python
            with self:
                return _engine_run_backward((first,), (torch.ones_like(first),), False, False, (), True, accumulate_grad=True)
        if func is Tensor.pin_memory:
            return self.gpu.pin(first)
        if held and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if held and func is Tensor.tolist:
            self.gpu.note_wait("tolist")
        wanted = _devices(func, args, kwargs)
        plain, options = tree_map(_on_cpu, (args, kwargs)) if wanted else (args, kwargs)
        result = func(*plain, **options)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            to_gpu = held if not wanted else wanted[0].type == "cuda"
            return result if to_gpu == held else self.gpu.moved(first, result, to_gpu, kwargs.get("non_blocking", False))
        return self._made(func, result, first, bool(wanted) and wanted[0].type == "cuda")

    def _made(self, func, result, first, on_gpu: bool):
        """What a call gave, on the GPU if that was asked for or if the call copies what is there."""
        from_values = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
        if from_values and (on_gpu or self.gpu.holds(first)) and not (func is torch.as_tensor and self.gpu.holds(first)):
            self.gpu.note_wait("upload")
            return self.gpu.put(result.clone())
        if isinstance(result, Tensor) and (on_gpu or (func is Tensor.__deepcopy__ and self.gpu.holds(first))):
            self.gpu.put(result)
        return result


def _devices(func, args, kwargs) -> list[torch.device]:
    """The device that a call names, in a list; an empty list if it names none."""
    if func is Tensor.cpu:
        return [CPU]
    named = [argument for argument in (*args[1:], *kwargs.values()) if isinstance(argument, torch.device)]
    texts = [kwargs["device"]] if isinstance(kwargs.get("device"), str) else []
    texts += [argument for argument in args[1:] if func is Tensor.to and isinstance(argument, str)]
    return named + [torch.device(text) for text in texts]


def _on_cpu(argument):
    """An argument with the CPU in the place of the GPU."""
    if isinstance(argument, torch.device) and argument.type == "cuda":
        return CPU
    return "cpu" if isinstance(argument, str) and argument.split(":")[0] == "cuda" else argument


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Within the block there is a GPU, of the name "cuda"; autocast on it is that of the CPU."""
    gpu, autocast, enabled, dtype = PretendedGPU(), torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda device_type, *args, **options: autocast("cpu", *args, **options))
        patch.setattr(torch, "is_autocast_enabled", lambda *_: enabled("cpu"))
        patch.setattr(torch, "get_autocast_dtype", lambda *_: dtype("cpu"))
        with _Operations(gpu), _Calls(gpu):
            yield gpu
