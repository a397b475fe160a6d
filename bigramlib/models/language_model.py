"""A language model with its tokenizer: what it is made of, what it predicts, and what a result records of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.models import checks, masking
from bigramlib.models.architectures import Architecture
from bigramlib.models.bridge import bridged
from bigramlib.models.discovery import architecture_of
from bigramlib.models.ends import Ends
from bigramlib.models.identity import Identity, as_configured
from bigramlib.models.left_out import blocks_left_out, move
from bigramlib.models.locks import lock_of
from bigramlib.models.logits import Readout
from bigramlib.models.positions import Positions
from bigramlib.models.sampling import Sampler
from bigramlib.models.self_check import check_units
from bigramlib.models.tokenizer import tokens_before, tokens_ending
from bigramlib.numeric import Number, full_precision, whole_number
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.loading import EVALUATION_SHARE, load_corpus
from bigramlib.text.sources import SELF
from bigramlib.text.vocabulary import Tokenized, tokenizer_hash

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: how `load_model` finds it again, revision included ("mini@step256").
        hf: the Hugging Face model, fp32, in evaluation mode, without gradients.
        tokenizer: its tokenizer.
        source: what `load_model` was asked for, without the revision; the name, if nothing else is given.
        revision: which revision or pretraining checkpoint of it; empty if none was asked for.
        origin: "pretrained", "tuned" for one that instruction tuning made of another, or "random" for a control with random
            weights.
        whole_hash: `weights_hash` of the whole model, if `load_model` left some of its blocks out of memory.
        use_cache: what its configuration said of the cache of keys and values, which passes here do without.
        identity: the hashes by which results know it.
        architecture: the layout of its attention and MLP matrices.
        ends: what comes before its first layer and after its last.

    Example:
        >>> model = load_model("mini")
        >>> model.vocabulary_size
        4096
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str = ""
    revision: str = ""
    origin: str = "pretrained"
    whole_hash: str = ""
    use_cache: bool | None = field(default=None, repr=False, compare=False)
    identity: Identity = field(init=False, repr=False, compare=False)
    architecture: Architecture = field(init=False, repr=False, compare=False)
    ends: Ends = field(init=False, repr=False, compare=False)

    @full_precision()
    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or self.name)
        checks.check_plain(self.hf, self.tokenizer, self.name, whole=not self.whole_hash)
        self.hf.float().eval().requires_grad_(False)
        config = self.hf.config.get_text_config()
        if self.use_cache is None:
            object.__setattr__(self, "use_cache", getattr(config, "use_cache", True))
        config.use_cache = False
        configured = as_configured(self.hf)
        object.__setattr__(self, "architecture", architecture_of(configured))
        checks.check_finite(dict(self.hf.named_parameters()) | self.maskable, self.name)
        checks.check_nothing_added(self.hf, configured, self.name)
        checks.check_prefix(self.prefix, self.vocabulary_size, self.name)
        object.__setattr__(self, "identity", Identity(self.hf, configured, self.prefix, self.tokenizer_hash, self.whole_hash))
        longest = 4 if self.positions is None else max(1, self.positions - len(self.prefix))
        ids = self.prefixed(torch.arange(min(4, longest, self.vocabulary_size), device=self.device)[None])
        with self.skipping(blocks_left_out(self.hf, self.architecture)):
            object.__setattr__(self, "ends", Ends.of(self.hf, ids, self.vocabulary_size, self.name))
            check_units(self.hf, self.architecture, ids, self.name)

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the tokenizer's largest id; unembedding rows that only pad the matrix are cut off everywhere."""
        return min(1 + max(self.tokenizer.get_vocab().values()), self.hf.get_output_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.hf.get_input_embeddings().weight.device

    @property
    def maskable(self) -> dict[str, Tensor]:
        """The maskable weight matrices by parameter name, as the model has them now."""
        return masking.maskable(self.hf, self.architecture, self.name)

    @property
    def weights_hash(self) -> str:
        """SHA-256 of all its weights, taken again when they were changed in place."""
        return self.identity.weights_hash

    @property
    def hash(self) -> str:
        """SHA-256 of all that its predictions depend on: weights, configuration, vocabulary, what the tokenizer puts first.

        Of mini and the packaged models, as they are, it is their `weights_hash`, by which version 0.1 knew every model.
        """
        return self.identity.hash

    def facts(self) -> dict[str, str]:
        """What a result records of the model that it was found in.

        Raises:
            ValueError: something hooked onto the model changes its predictions.
        """
        self.settle()
        facts = {"model": self.name, "weights_hash": self.weights_hash}
        if self.hash != self.weights_hash:
            facts["model_hash"] = self.hash
        return facts | {"model_source": self.source, "model_revision": self.revision, "model_origin": self.origin}

    def settle(self) -> None:
        """Freeze the model again, as when it was made, and have its weights hashed anew; done before a result is stored.

        Raises:
            ValueError: something hooked onto the model changes its predictions.
        """
        checks.check_unhooked(self.hf, self.name)
        self.hf.float().eval().requires_grad_(False)
        self.identity.forget()

    @property
    def final_norm(self) -> torch.nn.Module:
        """What takes the last layer's residual stream to the last hidden state: a norm, in few models more or nothing."""
        return self.ends.norm(self.hf)

    @cached_property
    def prefix(self) -> list[int]:
        """What the tokenizer puts before every text: a beginning-of-sequence token for models that want one, mostly nothing.

        Every pass over the model puts it before each sequence, and nothing is ever predicted or measured on it.
        """
        return tokens_before(self.tokenizer)

    @cached_property
    def end_tokens(self) -> list[int]:
        """The tokens that end a document: the ends of text, and the beginning of another (some models know only that one)."""
        return tokens_ending(self.tokenizer, self.hf, self.vocabulary_size)

    @property
    def positions(self) -> int | None:
        """How many tokens a sequence may have, prefix included; None where nothing says."""
        return self._positions.count

    @cached_property
    def _positions(self) -> Positions:
        return Positions(self.hf, self.name, len(self.prefix))

    def prefixed(self, ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch more"]:
        """Ids with the prefix before each sequence.

        Raises:
            ValueError: they are more than the positions that the model has embeddings for.
        """
        self.check_length(ids.shape[1])
        return torch.cat([*(ids.new_full((len(ids), 1), token) for token in self.prefix), ids], dim=1)

    def check_length(self, sequence_length: int) -> None:
        """Raise ValueError if sequences of so many tokens and the prefix are longer than the model can read."""
        self._positions.check(sequence_length)

    def embedded(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """What tokens bring into the residual stream, without positions.

        That is their embeddings, and what modules of the model make of these (BLOOM norms them, OPT-350m makes them wider).
        """
        return self.ends.embedding(self.hf)(ids)

    def hidden(
        self, ids: Int[Tensor, "batch pos"], weights: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The last hidden state, after the final norm, optionally with some weights replaced (by full parameter name)."""
        if self.hf.training:
            self.hf.eval()
        return masking.hidden_states(self.hf, self.architecture, self.prefixed(ids), weights or {})[:, len(self.prefix) :]

    @contextmanager
    def replaced(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context some weights have other values; afterwards, even after an error, all is as before.

        Args:
            weights: the other values by full parameter name.
        """
        with lock_of(self.hf), self.identity.weights_replaced(), masking.replaced(dict(self.hf.named_parameters()), weights):
            yield

    def skipping(self, blocks: Iterable[str]) -> AbstractContextManager[None]:
        """Within the context some attention and MLP modules are not computed: they write what they would with all-zero weights.

        Args:
            blocks: names of modules, of those in `Architecture.blocks`.
        """
        return masking.skipping(self.hf, self.architecture, blocks)

    def unembed(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape vocab"]:
        """Next-token logits of a last hidden state."""
        return self.readout.logits(hidden)

    def log_partition(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape"]:
        """Log sum exp of the next-token logits of last hidden states, nats, without holding many of the logits."""
        return self.readout.log_partition(hidden)

    def logits_of(self, hidden: Float[Tensor, "*shape d_model"], tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The logit of one next token for each last hidden state."""
        return self.readout.logits_of(hidden, tokens)

    @property
    def readout(self) -> Readout:
        """What turns last hidden states into logits, as the model has it now."""
        return self.ends.readout(self.hf, self.vocabulary_size)

    @property
    def sampler(self) -> Sampler:
        """What draws text from the model."""
        return Sampler(self.hf, self.tokenizer, self.name, self.vocabulary_size, self.prefix, self.end_tokens, self._positions)

    def sample(self, prompt: str, tokens: Number = 60, seed: Number = 0) -> str:
        """Continue a text by sampling at temperature 1 from the model as it is now (within `subnetwork.applied`, from that)."""
        return self.sampler.continued(prompt, whole_number("tokens", tokens, least=1), whole_number("seed", seed))

    def sample_documents(self, tokens: int, seed: int = 0, batch_size: int = 256) -> Iterator[list[int]]:
        """Sample documents, as token ids, at temperature 1, until they have so many tokens together (see `Sampler`)."""
        return self.sampler.documents(tokens, seed, batch_size)

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the vocabulary of its tokenizer (`bigramlib.text.vocabulary.tokenizer_hash`)."""
        return tokenizer_hash(self.tokenizer)

    def check_vocabulary(self, text: Tokenized) -> None:
        """Raise ValueError unless a corpus, or the bigram table of one, has token ids of this model's vocabulary."""
        checks.check_vocabulary(text, self.vocabulary_size, self.tokenizer_hash, self.name)

    def load_corpus(
        self,
        source: str | Path | Iterable,
        *,
        evaluation_share: Number = EVALUATION_SHARE,
        seed: Number = 0,
        text_column: str = "text",
    ) -> tuple[TokenCorpus, TokenCorpus]:
        """Text for this model as (train, evaluation): any source that `load_corpus` knows, or samples of its own.

        Args:
            source: "self" samples 200,000 tokens from the model (temperature 1), so that the bigram table is that of the
                model's own distribution: the right text where the training text is not known. Anything else is a text.
            evaluation_share: the share of tokens to hold out, in whole documents.
            seed: of the split, and of the samples.
            text_column: the column to read in tables.
        """
        if not isinstance(source, str | Path) or str(source) != SELF:
            split = {"evaluation_share": evaluation_share, "seed": seed}
            return load_corpus(source, self.tokenizer, vocabulary_size=self.vocabulary_size, text_column=text_column, **split)
        seed = whole_number("seed", seed, least=0)
        with lock_of(self.hf):
            self.settle()
            return self.sampler.corpus(self.hash, evaluation_share, seed)

    def bridge(self) -> TransformerBridge:
        """A TransformerLens bridge around a copy of the model as it is now.

        Inside `with subnetwork.applied(model):` it shows the subnetwork. `bridge.run_with_cache("The people")` takes a text.

        Raises:
            ValueError: TransformerLens cannot show such a model.
        """
        return bridged(self.hf, self.tokenizer, self.architecture, self.name)

    def to(self, device: str | torch.device) -> LanguageModel:
        """Move the model to a device, in place, and return it; raises ValueError if there is no such device here."""
        checks.check_device(device)
        move(self.hf, device)
        return self
