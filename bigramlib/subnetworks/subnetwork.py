"""A hard subnetwork: one bit for each maskable weight, with its provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from bigramlib.disk import reading, safe_tensors, written_whole
from bigramlib.models.architectures import Architecture
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import Number, whole_number
from bigramlib.store import content_hash
from bigramlib.subnetworks import hub

FORMAT = "bigramlib subnetwork 1"
DAMAGED = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What damaged and hostile files raise once they are read."""


@dataclass(frozen=True)
class Subnetwork:
    """Which maskable weights are kept.

    Attributes:
        masks: bool tensors on the CPU by Hugging Face parameter name; True keeps the weight.
        architecture: the layout of those parameters.
        provenance: JSON-able facts: how this subnetwork came about.
    """

    masks: Mapping[str, Tensor]
    architecture: Architecture
    provenance: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.masks) != set(self.architecture.maskable):
            odd = sorted(set(self.masks) ^ set(self.architecture.maskable))[0]
            raise ValueError(f"Masks must name exactly the maskable parameters of the architecture; {odd!r} does not match.")
        for name, mask in self.masks.items():
            if not isinstance(mask, Tensor):
                raise ValueError(f"The mask of {name!r} is a {type(mask).__name__}; it must be a bool tensor on the CPU.")
            if mask.dtype != torch.bool or mask.ndim != 2 or mask.device.type != "cpu":
                what = f"{mask.dtype} with {mask.ndim} axes" + f" on {mask.device}" * (mask.device.type != "cpu")
                raise ValueError(f"The mask of {name!r} is {what}; it must be a bool matrix on the CPU.")

    @classmethod
    def full(cls, model: LanguageModel) -> Subnetwork:
        """Everything kept: the model itself (paper: lambda = -inf)."""
        masks = {name: torch.ones(weight.shape, dtype=torch.bool, device="cpu") for name, weight in model.maskable.items()}
        return cls(masks, model.architecture, {"model": model.name, "origin": "full"})

    @classmethod
    def empty(cls, model: LanguageModel) -> Subnetwork:
        """Nothing kept: embeddings, norms, biases and unembedding alone (paper: lambda = +inf)."""
        return (~cls.full(model))._with_origin("empty")

    @classmethod
    def layer(cls, model: LanguageModel, layer: int) -> Subnetwork:
        """All weights of one layer, to add to a subnetwork (`|`), take away (`-`) or look at alone (`&`)."""
        return cls._part(model, layer, {})

    @classmethod
    def head(cls, model: LanguageModel, layer: int, head: int) -> Subnetwork:
        """All weights of one attention head, to add or take away: its rows of q, k and v and its columns of o.

        Where heads share keys and values (grouped queries) those are included, so take away `head` only from whole groups.
        """
        shape = model.architecture
        head = _index("head", head, shape.heads)
        group = head // (shape.heads // shape.key_value_heads)
        return cls._part(model, layer, {"q": [head], "k": [group], "v": [group], "o": [head]})

    @classmethod
    def mlp(cls, model: LanguageModel, layer: int, dimensions: Sequence[int] | None = None) -> Subnetwork:
        """All weights into and out of some dimensions of one layer's MLP, or of all, to add or take away."""
        size = model.architecture.mlp_size
        chosen = [_index("MLP dimension", each, size) for each in (range(size) if dimensions is None else dimensions)]
        return cls._part(model, layer, dict.fromkeys(("mlp in", "mlp gate", "mlp out"), chosen))

    # -- size ---------------------------------------------------------------------------------------------------------

    @cached_property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @cached_property
    def total(self) -> int:
        """Number of maskable weights."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def density(self) -> float:
        """Kept share of the maskable weights."""
        return self.kept / self.total

    @cached_property
    def empty_blocks(self) -> list[str]:
        """Attention and MLP modules of which nothing is kept, so that `LanguageModel.skipping` changes nothing but the cost."""
        blocks = self.architecture.blocks.items()
        return [block for block, names in blocks if not any(bool(self.masks[name].any()) for name in names)]

    def table(self) -> pd.DataFrame:
        """One row for each layer and component: kept, total, density, and its share of all kept weights."""
        rows = []
        for component in self.architecture.components:
            part = component.of(self.masks[component.parameter])
            rows.append((component.layer, component.name, int(part.sum()), part.numel()))
        table = pd.DataFrame(rows, columns=["layer", "component", "kept", "total"])
        table["density"] = table.kept / table.total
        table["share"] = table.kept / max(1, self.kept)
        return table

    def units(self) -> pd.DataFrame:
        """One row for each attention head and MLP dimension of each component: layer, component, unit, kept, total."""
        tables = []
        for component in self.architecture.components:
            mask = self.masks[component.parameter]
            counts = mask.sum(dim=1 - component.axis).numpy()[component.units].sum(axis=1)
            groups, size = component.units.shape
            facts = {"layer": component.layer, "component": component.name, "unit": range(groups), "kept": counts}
            tables.append(pd.DataFrame(facts | {"total": size * mask.shape[1 - component.axis]}))
        return pd.concat(tables, ignore_index=True)

    def first_mlp_share(self) -> float:
        """Share of the kept weights that lies in the first layer's MLP (paper, finding 2)."""
        table = self.table()
        return float(table.share[(table.layer == 0) & table.component.str.startswith("mlp")].sum())

    def searched(self) -> int:
        """Number of maskable weights that its training could keep: all but what was dropped beforehand."""
        config = self.provenance.get("config") or {}
        names = self.architecture.within(config.get("layers"), config.get("attention", True))
        return sum(self.masks[name].numel() for name in names)

    def history(self) -> pd.DataFrame:
        """How its training went: columns step, kl (nats), density, undecided (share of the gates)."""
        return pd.DataFrame(self.provenance.get("history", []), columns=["step", "kl", "density", "undecided"])

    # -- set algebra and controls -------------------------------------------------------------------------------------

    def __invert__(self) -> Subnetwork:
        """The complement: the full model minus this subnetwork."""
        masks = {name: ~mask for name, mask in self.masks.items()}
        return Subnetwork(masks, self.architecture, {"origin": "complement", "of": self.provenance})

    def __and__(self, other: Subnetwork) -> Subnetwork:
        return self._combined(other, "intersection", torch.logical_and)

    def __or__(self, other: Subnetwork) -> Subnetwork:
        return self._combined(other, "union", torch.logical_or)

    def __sub__(self, other: Subnetwork) -> Subnetwork:
        return self._combined(other, "difference", lambda mine, theirs: mine & ~theirs)

    def random_like(self, seed: Number) -> Subnetwork:
        """A control that keeps as many weights of each matrix, drawn uniformly (the paper's flat shuffle).

        Draws of different seeds, and of different subnetworks, are independent.
        """
        seed = whole_number("seed", seed)
        generator = torch.Generator().manual_seed(int(content_hash(self.hash, seed)[:15], 16))
        masks = {}
        for name, mask in self.masks.items():
            flat = torch.zeros(mask.numel(), dtype=torch.bool, device="cpu")
            flat[torch.randperm(mask.numel(), generator=generator, device="cpu")[: int(mask.sum())]] = True
            masks[name] = flat.view(mask.shape)
        return Subnetwork(masks, self.architecture, {"origin": "random", "seed": seed, "like": self.provenance})

    # -- use on a model -----------------------------------------------------------------------------------------------

    def check_fits(self, model: LanguageModel) -> None:
        """Raise ValueError, naming the difference, unless this is a subnetwork of this model.

        Matrices must have the same names and shapes and, if it was found by training (or made of such), the model the same
        weights, configuration and tokenizer as then; those that applied subnetworks have replaced for now count too.
        """
        self._check_shapes(model)
        for weights_hash, model_hash in sorted(_found_in(self.provenance)):
            if _is_of([*model.identity.beneath, (model.weights_hash, model.hash)], weights_hash, model_hash):
                continue
            if weights_hash == model.weights_hash:
                raise ValueError(
                    f"The subnetwork was found in {_model_of(self.provenance)!r}, whose weights {model.name!r} has, but whose "
                    "configuration, vocabulary or first token is another; load that model, or, if you mean to use it on this "
                    "one, take subnetwork.transplanted(model)."
                )
            raise ValueError(
                f"The subnetwork was found in {_model_of(self.provenance)!r} with the weights {weights_hash[:12]}, but "
                f"{model.name!r} has the weights {model.weights_hash[:12]}; load that model and revision, or, if you "
                "mean to use it on other weights, take subnetwork.transplanted(model)."
            )

    def transplanted(self, model: LanguageModel) -> Subnetwork:
        """These masks as a subnetwork of another model of the same shapes, on purpose; its provenance says so.

        Raises:
            ValueError: the model has other matrices.
        """
        self._check_shapes(model)
        facts = model.facts() | {"origin": "transplanted", "from": self.provenance}
        return Subnetwork(self.masks, self.architecture, facts)

    def _check_shapes(self, model: LanguageModel) -> None:
        if self.architecture != model.architecture:
            mine, theirs = asdict(self.architecture), asdict(model.architecture)
            odd = next(key for key in mine if mine[key] != theirs[key])
            raise ValueError(
                f"The subnetwork is of a model with {odd} {mine[odd]}, but {model.name!r} has {theirs[odd]}; "
                "load the model it was found in."
            )
        for name, weight in model.maskable.items():
            if self.masks[name].shape != weight.shape:
                raise ValueError(
                    f"The mask of {name!r} is {tuple(self.masks[name].shape)}, but in {model.name!r} the weight is "
                    f"{tuple(weight.shape)}; load the model it was found in."
                )

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Within the block, weights outside the subnetwork are zero; afterwards, even after an error, all is as before.

        Raises:
            ValueError: it is not a subnetwork of this model (see `check_fits`).
        """
        self.check_fits(model)
        masked = {name: weight.data * self.masks[name].to(weight.device) for name, weight in model.maskable.items()}
        with model.replaced(masked):
            yield model

    # -- on disk ------------------------------------------------------------------------------------------------------

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the masks."""
        return content_hash(*(part for name in self.masks for part in (name, self.masks[name].numpy())))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: masks as packed bits, everything else as JSON metadata. Whole or not at all.

        Raises:
            OSError: it cannot be written; a file that was there before stays as it was.
        """
        header = {
            "format": FORMAT,
            "hash": self.hash,
            "shapes": {name: list(mask.shape) for name, mask in self.masks.items()},
            "architecture": asdict(self.architecture),
            "provenance": _plain(self.provenance),
        }
        header["facts_hash"] = _facts_hash(header)
        packed = {name: np.packbits(mask.numpy()) for name, mask in self.masks.items()}
        try:
            with written_whole(Path(path).expanduser()) as temporary:
                save_file(packed, temporary, metadata={"bigramlib": json.dumps(header)})
        except SafetensorError as error:
            raise OSError(f"The subnetwork could not be written to {str(path)!r} ({error}); make room there.") from error

    @classmethod
    def load(cls, path: str | Path) -> Subnetwork:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a truncated, altered or foreign file.
            OSError, MemoryError: it cannot be read just now; that says nothing about the file.
        """
        path = Path(path).expanduser()
        try:
            with reading(path):
                if not path.is_file():
                    raise FileNotFoundError(f"There is no subnetwork file {str(path)!r}.")
                return cls._read(path)
        except DAMAGED as error:
            raise ValueError(
                f"{str(path)!r} is not a whole subnetwork file of this library ({error}); fetch or train it again."
            ) from None

    @classmethod
    def _read(cls, path: Path) -> Subnetwork:
        metadata, tensors = safe_tensors(path, safe_open)
        header = json.loads(metadata["bigramlib"])
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        _check_claims(header)
        masks = {}
        for name, (rows, columns) in header["shapes"].items():
            packed = tensors[name]
            if packed.dtype != torch.uint8 or packed.shape != (-(-rows * columns // 8),):
                raise ValueError(f"the mask of {name!r} is not {rows} x {columns} bits")
            bits = np.unpackbits(packed.numpy(), count=rows * columns).astype(bool)
            masks[name] = torch.from_numpy(bits.reshape(rows, columns))
        subnetwork = cls(masks, Architecture(**header["architecture"]), header["provenance"])
        if subnetwork.hash != header["hash"]:
            raise ValueError("its masks do not have the hash that it states")
        if header.get("facts_hash", _facts_hash(header)) != _facts_hash(header):
            raise ValueError("its provenance or architecture does not have the hash that it states")
        return subnetwork

    def save_pretrained(self, folder: str | Path, repo: str | None = None) -> None:
        """Write a folder as it would lie on the hub: the subnetwork and a model card filled from its provenance.

        Args:
            folder: made if missing.
            repo: the name that the card tells readers to load; the folder's by default.
        """
        hub.write_folder(self, folder, repo)

    def push_to_hub(self, repo: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to a hub repository, made if missing; returns the address of the commit."""
        return hub.upload(self, repo, private, token)

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> Subnetwork:
        """Load from a folder or a hub repository.

        Raises:
            ValueError: no such folder or repository, or what is there is not a whole subnetwork.
        """
        return cls.load(hub.found(source, revision))

    def _repr_html_(self) -> str:
        facts = {
            "kept": f"{self.kept:,} of {self.total:,} maskable weights ({self.density:.2%})",
            "in the first MLP": f"{self.first_mlp_share():.1%} of the kept weights",
            **{key: value for key, value in self.provenance.items() if isinstance(value, str | int | float | bool)},
        }
        density = self.table().pivot(index="layer", columns="component", values="density")
        density = density[list(dict.fromkeys(component.name for component in self.architecture.components))]
        body = "".join(f"<tr><th style='text-align:left'>{key}</th><td>{value}</td></tr>" for key, value in facts.items())
        shaded = density.style.format("{:.2%}").background_gradient("Blues", axis=None).set_caption("density")
        return f"<b>Subnetwork</b><table>{body}</table>{shaded.set_uuid('subnetwork').to_html()}"

    def _combined(self, other: Subnetwork, origin: str, operation: Callable[[Tensor, Tensor], Tensor]) -> Subnetwork:
        if self.architecture != other.architecture or _shapes(self) != _shapes(other):
            raise ValueError("The two subnetworks are of models with different shapes; combine subnetworks of one model.")
        masks = {name: operation(mask, other.masks[name]) for name, mask in self.masks.items()}
        return Subnetwork(masks, self.architecture, {"origin": origin, "of": [self.provenance, other.provenance]})

    @classmethod
    def _part(cls, model: LanguageModel, layer: int, units: Mapping[str, list[int]]) -> Subnetwork:
        """Some heads or dimensions of one layer by component, or the whole layer if `units` is empty."""
        layer = _index("layer", layer, model.architecture.layers)
        masks = {name: torch.zeros(weight.shape, dtype=torch.bool, device="cpu") for name, weight in model.maskable.items()}
        for component in model.architecture.components:
            if component.layer == layer and (not units or component.name in units):
                component.fill_(masks[component.parameter], True, units.get(component.name))
        facts = {"model": model.name, "origin": "part", "layer": layer, "units": {name: list(u) for name, u in units.items()}}
        return cls(masks, model.architecture, facts)

    def _with_origin(self, origin: str) -> Subnetwork:
        return Subnetwork(self.masks, self.architecture, {"origin": origin})


def _shapes(subnetwork: Subnetwork) -> dict[str, torch.Size]:
    return {name: mask.shape for name, mask in subnetwork.masks.items()}


def _plain(provenance: dict) -> dict:
    """Facts as JSON has them; numbers and arrays of numpy and torch as plain ones, paths as texts.

    Raises:
        ValueError: there is something else.
    """

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray | np.generic | Tensor):
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"a {type(value).__name__}")

    try:
        return json.loads(json.dumps(provenance, default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"The provenance of the subnetwork is not JSON ({error}); keep texts, numbers and lists.") from error


def _facts_hash(header: dict) -> str:
    return content_hash(json.dumps([header["architecture"], header["provenance"]]))


def _check_claims(header: dict) -> None:
    """Raise ValueError if a header states sizes that its masks cannot have, before anything is made of these sizes."""
    numbers = {name: value for name, value in header["architecture"].items() if name != "model_type"}
    if not all(type(value) is int and value > 0 for value in numbers.values()):
        raise ValueError("its architecture has a size that is not a positive whole number")
    widest = max(max(shape) for shape in header["shapes"].values())
    if numbers["layers"] > len(header["shapes"]) or any(
        size > widest for size in (numbers["heads"] * numbers["head_size"], numbers["key_value_heads"], numbers["mlp_size"])
    ):
        raise ValueError("its architecture is larger than its masks")
    if not isinstance(header["provenance"], dict):
        raise ValueError("its provenance is not a dict")


def _found_in(provenance: object) -> set[tuple[str, str]]:
    """(weights_hash, hash) of the models in which a subnetwork, or those that it was made of, were found.

    None if it was made by place alone; hash is empty if only the weights were recorded.
    """
    if not isinstance(provenance, dict):
        return set()
    if "weights_hash" in provenance:
        return {(str(provenance["weights_hash"]), str(provenance.get("model_hash", "")))}
    sources = provenance.get("of", provenance.get("like"))
    return set().union(*map(_found_in, sources if isinstance(sources, list) else [sources]))


def _is_of(models: Iterable[tuple[str, str]], weights_hash: str, model_hash: str) -> bool:
    """Whether what was found in a model of these hashes was found in one of the models."""
    return any(weights == weights_hash and model_hash in ("", known) for weights, known in models)


def _model_of(provenance: dict) -> str:
    """The name of the model in which a subnetwork, or the first of those it was made of, was found."""
    while "model" not in provenance:
        sources = provenance.get("of", provenance.get("like", {"model": "an unknown model"}))
        provenance = sources[0] if isinstance(sources, list) else sources
    return provenance["model"]


def _index(kind: str, index: int, count: int) -> int:
    """An index as a plain int, whatever integer it came as; raises ValueError where there is none such."""
    if not 0 <= index < count or index != int(index):
        raise ValueError(f"There is no {kind} {index}; the model has {count}, numbered from 0.")
    return int(index)


def layer_shares(subnetworks: Iterable[Subnetwork]) -> pd.DataFrame:
    """Share of each subnetwork's kept weights by layer and kind: columns kept, layer, kind ("mlp" or "attention"), share."""
    tables = []
    for found in subnetworks:
        table = found.table()
        table["kind"] = np.where(table.component.str.startswith("mlp"), "mlp", "attention")
        tables.append(table.groupby(["layer", "kind"], as_index=False).share.sum().assign(kept=found.kept))
    return pd.concat(tables, ignore_index=True)


def first_mlp_dimensions(subnetwork: Subnetwork) -> pd.Series:
    """Number of kept weights into and out of each dimension of the first layer's MLP; the index `unit` numbers them."""
    units = subnetwork.units()
    return units[(units.layer == 0) & units.component.str.startswith("mlp")].groupby("unit").kept.sum()


def gini(counts: Sequence[int] | pd.Series) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, towards 1 if one holds everything."""
    ordered = np.sort(np.asarray(counts, dtype=float))
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / max(1e-300, n * ordered.sum()))
