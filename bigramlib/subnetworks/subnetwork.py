"""A subnetwork: the weights of a model that are kept while all other maskable weights are set to zero."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from bigramlib.disk import written_whole
from bigramlib.models.architectures import Architecture
from bigramlib.numeric import Number, whole_number
from bigramlib.store import content_hash
from bigramlib.subnetworks import cards, description, drawing, hub, places
from bigramlib.subnetworks.export import write_model
from bigramlib.subnetworks.file import read_file, write_file
from bigramlib.subnetworks.masks import check_masks, check_shapes, masks_hash, shuffled
from bigramlib.subnetworks.provenance import check_found_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bigramlib.models.language_model import LanguageModel


@dataclass(frozen=True, repr=False, eq=False)
class Subnetwork:
    """Which maskable weights of a model are kept: one bit for each.

    Subnetworks of one model combine like sets: `a | b`, `a & b`, `a - b` and `~a`. Two are equal if they keep the same weights
    of the same architecture, wherever they come from.

    Example:
        >>> without_head = ~Subnetwork.heads(model, [(0, 3)])
        >>> f"{without_head.density:.3f}"
        '0.990'

    Attributes:
        masks: bool tensors on the CPU by Hugging Face parameter name; True keeps the weight.
        architecture: the layout of those parameters.
        provenance: how this subnetwork was made, as facts that JSON can hold (see provenance.py).
        measured: the bigram correlation that `evaluate` measured last: r, r_interval, text (its name), tokens. It is shown
            and stated on model cards, but not saved in the subnetwork's file.

    Raises:
        ValueError: the masks are not bool tensors on the CPU, or not those of the architecture.
    """

    masks: Mapping[str, Tensor]
    architecture: Architecture
    provenance: dict = field(default_factory=dict)
    measured: dict = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_masks(self.masks, self.architecture)
        object.__setattr__(self, "masks", {name: self.masks[name] for name in self.architecture.maskable})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subnetwork) and self.architecture == other.architecture and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @classmethod
    def full(cls, model: LanguageModel) -> Subnetwork:
        """Everything is kept: the model itself (the limit lambda = -inf of Chang & Bergen 2025)."""
        masks = {name: torch.ones(weight.shape, dtype=torch.bool, device="cpu") for name, weight in model.maskable.items()}
        return cls(masks, model.architecture, {"model": model.name, "origin": "full"})

    @classmethod
    def empty(cls, model: LanguageModel) -> Subnetwork:
        """Nothing is kept: embeddings, norms, biases and unembedding alone (lambda = +inf in Chang & Bergen 2025)."""
        return cls((~cls.full(model)).masks, model.architecture, {"origin": "empty"})

    @classmethod
    def layer(cls, model: LanguageModel, layer: int) -> Subnetwork:
        """All weights of one layer, to add to a subnetwork (`|`), to take from it (`-`), or to look at alone (`&`)."""
        return cls._part(model, places.checked_index("layer", layer, model.architecture.layers), {})

    @classmethod
    def heads(cls, model: LanguageModel, pairs: Iterable) -> Subnetwork:
        """All weights of some attention heads: their rows of q, k and v and their columns of o, to add or to take away.

        Where several heads share their keys and values (grouped queries), the shared ones are included. So take away only
        all heads of such a group together.

        Args:
            model: the model.
            pairs: layer and number of each head: `[(0, 3), (2, 1)]`.
        """
        heads = places.checked_heads(model.architecture, pairs)
        masks = places.head_masks(model.maskable, model.architecture, heads)
        return cls(masks, model.architecture, {"model": model.name, "origin": "part", "heads": heads})

    @classmethod
    def mlp(
        cls, model: LanguageModel, layer: int, dimensions: Sequence[int] | None = None, expert: int | None = None
    ) -> Subnetwork:
        """All weights into and out of some dimensions of one layer's MLP, or of all, to add or to take away.

        Where the MLP is a mixture, `expert` names one of its experts. Without dimensions and expert all of them are meant, and
        what stands beside them (shared experts); with dimensions alone, only what stands beside them.
        """
        layer = places.checked_index("layer", layer, model.architecture.layers)
        return cls._part(model, layer, places.mlp_units(model.architecture, layer, dimensions, expert), expert)

    @classmethod
    def _part(
        cls, model: LanguageModel, layer: int, units: Mapping[str, list[int] | None], expert: int | None = None
    ) -> Subnetwork:
        """Some units of one layer, or of one of its experts, by component, or the whole layer if `units` is empty."""
        masks = places.part_masks(model.maskable, model.architecture, layer, units, expert)
        facts = {"model": model.name, "origin": "part", "layer": layer, "units": dict(units)}
        return cls(masks, model.architecture, facts | ({} if expert is None else {"expert": int(expert)}))

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
        """Attention and MLP modules of which nothing is kept. `LanguageModel.skipping` them saves time and alters no result."""
        return [block for block, names in self.architecture.blocks.items() if not any(self.masks[name].any() for name in names)]

    def table(self) -> pd.DataFrame:
        """One row for each layer and component: kept, total, density, and its share of all kept weights."""
        return places.component_table(self.masks, self.architecture)

    def units(self) -> pd.DataFrame:
        """One row for each attention head and MLP dimension of each component: layer, component, unit, kept, total."""
        return places.unit_table(self.masks, self.architecture)

    def first_mlp_share(self) -> float:
        """Share of the kept weights that lies in the first layer's MLP (finding 2 of Chang & Bergen 2025)."""
        return places.first_mlp_share(self.table())

    def searched(self) -> int:
        """Number of maskable weights that training could have kept: those of the layers and kinds that its settings name."""
        config = self.provenance.get("config") or {}
        names = self.architecture.within(config.get("layers"), config.get("attention", True))
        return sum(self.masks[name].numel() for name in names)

    def history(self) -> pd.DataFrame:
        """How its training went: columns step, kl (nats), density (kept share), undecided (share of the gates)."""
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

    def _combined(self, other: Subnetwork, origin: str, operation: Callable[[Tensor, Tensor], Tensor]) -> Subnetwork:
        if self.architecture != other.architecture:
            raise ValueError("The two subnetworks are of models with different shapes; combine subnetworks of one model.")
        masks = {name: operation(mask, other.masks[name]) for name, mask in self.masks.items()}
        return Subnetwork(masks, self.architecture, {"origin": origin, "of": [self.provenance, other.provenance]})

    def random_like(self, seed: Number) -> Subnetwork:
        """A random control that keeps as many weights of each matrix, drawn uniformly (Chang & Bergen 2025: flat shuffle).

        Draws with different seeds, and draws for different subnetworks, are independent of each other.
        """
        seed = whole_number("seed", seed)
        masks = shuffled(self.masks, int(content_hash(self.hash, seed)[:15], 16))
        return Subnetwork(masks, self.architecture, {"origin": "random", "seed": seed, "like": self.provenance})

    # -- use on a model -----------------------------------------------------------------------------------------------

    def check_fits(self, model: LanguageModel) -> None:
        """Raise ValueError, naming the difference, unless this is a subnetwork of this model.

        The matrices must have the same names and shapes. If the subnetwork was found by training, or made from one that was,
        the model must also have the same weights, configuration and tokenizer as then. Within `applied` of some subnetwork
        both the model's full weights and its weights of that moment count.
        """
        check_shapes(self.masks, self.architecture, model)
        check_found_in(self.provenance, model)

    def transplanted(self, model: LanguageModel) -> Subnetwork:
        """The same masks as a subnetwork of another model, which `check_fits` would refuse. Its provenance says so.

        Raises:
            ValueError: the model has matrices of other names or shapes.
        """
        check_shapes(self.masks, self.architecture, model)
        facts = model.facts() | {"origin": "transplanted", "from": self.provenance}
        return Subnetwork(self.masks, self.architecture, facts)

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Within the block, weights outside the subnetwork are zero. Afterwards, even after an error, all is as before.

        Raises:
            ValueError: it is not a subnetwork of this model (see `check_fits`).
        """
        self.check_fits(model)
        weights = {name: weight.data for name, weight in model.maskable.items() if not weight.is_meta}
        masked = {name: weight * self.masks[name].to(weight.device) for name, weight in weights.items()}
        with model.replaced(masked):
            yield model

    # -- on disk ------------------------------------------------------------------------------------------------------

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the masks."""
        return masks_hash(self.masks)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all; raises as `bigramlib.subnetworks.file.write_file` does."""
        write_file(path, self.masks, self.architecture, self.provenance, self.hash)

    @classmethod
    def load(cls, path: str | Path) -> Subnetwork:
        """Read what `save` wrote; raises as `bigramlib.subnetworks.file.read_file` does."""
        masks, architecture, provenance, known_hash = read_file(path)
        found = cls(masks, architecture, provenance)
        found.__dict__["hash"] = known_hash
        return found

    def save_pretrained(self, folder: str | Path, repo: str | None = None) -> None:
        """Write a folder of the form that it has on the hub: the file, and a card that tells to load it as `repo`."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / hub.FILE)
        card = cards.card(cards.OF_SUBNETWORK, repo or folder.name, self.provenance, self._facts())
        with written_whole(folder / cards.CARD) as temporary:
            temporary.write_text(card, encoding="utf-8")

    def export(self, folder: str | Path, model: LanguageModel) -> None:
        """Write the model of which only this subnetwork is kept as an ordinary Hugging Face folder, whole or not at all.

        It holds the model, its tokenizer and a model card; `transformers` and `load_model` load it.

        Raises:
            ValueError: it is not a subnetwork of this model, or there is something in the folder already.
            OSError: it cannot be written.
        """
        folder = Path(folder).expanduser()
        card = cards.card(cards.OF_MODEL, folder.name, {"model": model.name, **self.provenance}, self._facts())
        with self.applied(model):
            write_model(folder, model, card)

    def push_to_hub(self, repo: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to a repository of the hub, which is made if it is missing; returns the address of the commit."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo)
            return hub.upload(Path(folder), repo, private, token)

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> Subnetwork:
        """Load from a folder or a repository of the hub; raises ValueError where there is no whole subnetwork."""
        return cls.load(hub.found(source, revision))

    def _facts(self) -> dict[str, str]:
        """What cards and notebooks state of it."""
        return description.facts(self.provenance, self.measured, self.kept, self.total, self.first_mlp_share())

    # -- for people ---------------------------------------------------------------------------------------------------

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw where its weights lie, as a heat map of layers and components; returns the axes, new ones if none are given."""
        return drawing.plot_density(axes, self.table())

    def __repr__(self) -> str:
        return description.line(self.provenance, self.measured, self.kept, self.total)

    def _repr_html_(self) -> str:
        return drawing.as_html(description.title(self.provenance), self._facts(), self.table())
