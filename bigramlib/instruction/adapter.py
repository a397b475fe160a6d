"""What instruction tuning trains: low-rank changes of the maskable matrices (LoRA, through peft), or all weights, of a copy."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bigramlib.instruction.tuning_config import TuneConfig
from bigramlib.models.architectures import holder, is_module
from bigramlib.models.discovery import decoder_of
from bigramlib.models.language_model import LanguageModel

ADAPTER = "default"
"""peft's name for an adapter that has no name of its own."""


@dataclass(frozen=True)
class TrainedWeights:
    """A copy of a model, and the parameters of it that are trained.

    Attributes:
        base: the model, which never changes.
        copied: the copy.
        parameters: what is trained, by name: the copy's own parameters, or the "lora_A" and "lora_B" of each maskable matrix.
        lora: peft's wrapper around the copy; None where all weights are trained.
    """

    base: LanguageModel
    copied: LanguageModel
    parameters: dict[str, nn.Parameter]
    lora: Any = None

    @classmethod
    def of(cls, model: LanguageModel, config: TuneConfig) -> TrainedWeights:
        """Those of a model before its first step."""
        copied = replace(model, hf=copy.deepcopy(model.hf))
        if config.rank is None:
            return cls(model, copied, _all_weights(copied))
        return cls(model, copied, *_adapter(copied, config))

    def changed(self) -> dict[str, Tensor]:
        """What makes the tuned model of its base: the adapter, or all weights that have other bits than the base's."""
        if self.lora is not None:
            return {name: parameter.detach() for name, parameter in self.parameters.items()}
        before = dict(self.base.hf.named_parameters())
        found = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return {name: now for name, now in found.items() if not torch.equal(_bits(now), _bits(before[name]))}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless tensors are such as `changed` gives."""
        for name, tensor in tensors.items():
            if name not in self.parameters or tensor.shape != self.parameters[name].shape or tensor.dtype != torch.float32:
                raise ValueError(f"{name!r} is no weight that is tuned, or has another shape or type")
        if self.lora is not None and (missing := set(self.parameters) - set(tensors)):
            raise ValueError(f"it lacks {min(missing)!r}")

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Give parameters other values; those that are not named keep their own."""
        for name, tensor in tensors.items():
            self.parameters[name].copy_(tensor)

    def tuned(self, name: str) -> LanguageModel:
        """The tuned model, with the parameters of the base by the same names. Nothing can be trained here after that."""
        hf = self.copied.hf if self.lora is None else self._merged()
        hf.zero_grad(set_to_none=True)
        return replace(self.base, name=name, hf=hf, origin="tuned")

    @torch.no_grad()
    def _merged(self) -> Any:
        """The copy with the low-rank changes added to its weights, to the same bits on every machine.

        They are summed one rank after another. The bits of a matrix product, as peft merges, depend on the processor, and a
        subnetwork of the tuned model is kept under the bits of its weights.
        """
        modules = [name.removesuffix(".lora_A") for name in self.parameters if name.endswith(".lora_A")]
        for layer, module in [(self.copied.hf.get_submodule(module), module) for module in modules]:
            first, second = (self.parameters[f"{module}.{part}"] for part in ("lora_A", "lora_B"))
            change = torch.zeros(len(second), first.shape[1], device=first.device)
            for rank in range(len(first)):
                change += second[:, rank, None] * first[rank]
            change *= layer.scaling[ADAPTER]
            layer.get_base_layer().weight += change.T if layer.fan_in_fan_out else change
        return self.lora.unload()


def check_lora(model: LanguageModel, config: TuneConfig) -> None:
    """Check that LoRA can tune a model, if that is asked for.

    Raises:
        ValueError: the model has experts that are not modules.
        ModuleNotFoundError: peft is not installed.
    """
    if config.rank is None:
        return
    if together := next((name for name in model.maskable if not is_module(name)), None):
        raise ValueError(
            f"LoRA cannot tune {model.name!r}, since all experts of a layer lie in one parameter ({together!r}); tune all "
            "weights with rank=None."
        )
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(
            "LoRA needs the package peft, which is not installed; run pip install 'bigramlib[lora]', or tune all weights with "
            "rank=None.",
            name="peft",
        )


def _all_weights(model: LanguageModel) -> dict[str, nn.Parameter]:
    """All parameters that text goes through, trainable from now on; not those for images or sound."""
    parts = (decoder_of(model.hf)[1], model.hf.get_output_embeddings())
    read = {parameter for part in parts for parameter in part.parameters()}
    return {name: parameter.requires_grad_() for name, parameter in model.hf.named_parameters() if parameter in read}


def _adapter(model: LanguageModel, config: TuneConfig) -> tuple[dict[str, nn.Parameter], Any]:
    """Put an adapter into a model, in place: its parameters, and peft's wrapper.

    The first values are those of Hu et al. (2021) as peft draws them, A uniform and B zero, but drawn from the seed alone.
    """
    from peft import LoraConfig, LoraModel

    modules = [holder(name) for name in model.maskable]
    transposed = isinstance(model.hf.get_submodule(modules[0]), Conv1D)
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=modules, fan_in_fan_out=transposed
    )
    with torch.random.fork_rng(devices=[]):  # peft draws values too
        lora = LoraModel(model.hf, settings, ADAPTER).eval()
    generator = torch.Generator().manual_seed(config.seed)
    parameters: dict[str, nn.Parameter] = {}
    with torch.no_grad():
        for module in modules:
            layer = model.hf.get_submodule(module)
            first, second = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            first.copy_(nn.init.kaiming_uniform_(torch.empty(first.shape), a=math.sqrt(5), generator=generator))
            second.zero_()
            parameters |= {f"{module}.lora_A": first, f"{module}.lora_B": second}
    return parameters, lora


def _bits(weight: Tensor) -> Tensor:
    """A float32 tensor as the integers that have its bits, so that 0 and -0 differ."""
    return weight.detach().contiguous().view(torch.int32)
