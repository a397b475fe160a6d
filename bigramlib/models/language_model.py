"""Frozen fp32 language models: running them with masked weights, and bridging them to TransformerLens."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.models import logits
from bigramlib.models.architectures import WRITING_COMPONENTS, Architecture
from bigramlib.models.identity import as_configured, beside_weights, build_hash, check_unhooked, identity, weights_state
from bigramlib.numeric import Number, full_precision, whole_number
from bigramlib.progress import tqdm
from bigramlib.store import tensors_hash
from bigramlib.text.corpus import EVALUATION_SHARE, SELF, TokenCorpus, load_corpus, stored_corpus
from bigramlib.text.vocabulary import Tokenized, tokenizer_hash

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

RANDOM = " (random"
"""In the name of a randomly initialised control."""
SELF_TOKENS = 200_000
MAX_DOCUMENT = 512
FEWEST_DOCUMENTS, SHORTEST_DOCUMENTS = 4096, 2
"""A model whose first so many own documents have fewer tokens than this on average gives no text."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: how `load_model` finds it again, revision included ("mini@step256").
        hf: the Hugging Face model, fp32, in evaluation mode, without gradients.
        tokenizer: its tokenizer.
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @full_precision()
    def __post_init__(self) -> None:
        if not isinstance(self.hf, PreTrainedModel) or not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"{self.name!r} is made of a {type(self.hf).__name__} and a {type(self.tokenizer).__name__}; give a model and "
                "a tokenizer of transformers, without wrappers around them."
            )
        if any(parameter.is_inference() for parameter in self.hf.parameters()):
            raise ValueError(f"{self.name!r} was made within torch.inference_mode(); load it outside of that.")
        if any(parameter.is_meta for parameter in self.hf.parameters()):
            raise ValueError(f"{self.name!r} has weights on the device 'meta', which holds none; load them onto the CPU.")
        if not self.tokenizer.get_vocab():
            raise ValueError(f"The tokenizer of {self.name!r} has no tokens; use the model's own tokenizer.")
        self.hf.float().eval().requires_grad_(False)
        self.hf.config.use_cache = False
        configured = as_configured(self.hf)
        self.__dict__["built"] = build_hash(configured)
        check_finite(dict(self.hf.named_parameters()) | self.maskable, self.name)
        if odd := sorted(set(self.hf.state_dict()) - set(configured.state_dict())):
            raise ValueError(
                f"The model {self.name!r} has the parameter {odd[0]!r}, which is none of its architecture; merge adapters into "
                "the model first (merge_and_unload of PEFT)."
            )
        if max(self.prefix, default=0) >= self.vocabulary_size:
            raise ValueError(
                f"The tokenizer of {self.name!r} puts the token {max(self.prefix)} before every text, but the model has "
                f"embeddings of {self.vocabulary_size} tokens; use the model's own tokenizer."
            )
        longest = 4 if self.positions is None else max(1, self.positions - len(self.prefix))
        ids = torch.arange(min(4, longest, self.vocabulary_size), device=self.device)[None]
        with torch.no_grad():
            own = self.hf(self.prefixed(ids)).logits[:, len(self.prefix) :, : self.vocabulary_size]
            if not torch.allclose(self.unembed(self.hidden(ids)), own, rtol=1e-3, atol=1e-3):
                raise ValueError(f"The logits of {self.name!r} are not its unembedding of the last hidden state.")

    @cached_property
    def architecture(self) -> Architecture:
        """The layout of its attention and MLP matrices."""
        return Architecture.of(self.hf.config)

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
        parameters = dict(self.hf.named_parameters())
        if missing := sorted(set(self.architecture.maskable) - set(parameters)):
            raise ValueError(
                f"The model {self.name!r} has no parameter {missing[0]!r}, which its architecture "
                f"{self.architecture.model_type!r} should have; load the unchanged Hugging Face model."
            )
        return {name: parameters[name] for name in self.architecture.maskable}

    @property
    def weights_hash(self) -> str:
        """SHA-256 of all its weights, taken again when they were changed in place."""
        state = weights_state(self.hf)
        if "weights_hash" not in self.__dict__ or self.__dict__.get("weights_state") != state:
            self.__dict__.update(weights_hash=tensors_hash(dict(self.hf.named_parameters())), weights_state=state)
        return self.__dict__["weights_hash"]

    @property
    def hash(self) -> str:
        """SHA-256 of all that its predictions depend on: weights, configuration, vocabulary, what the tokenizer puts first.

        Of mini and the packaged models, as they are, it is their `weights_hash`, by which version 0.1 knew every model.
        """
        beside = beside_weights(self.hf, self.__dict__["built"], self.prefix, self.tokenizer_hash)
        return identity(self.weights_hash, beside)

    def facts(self) -> dict[str, str]:
        """What a result records of the model that it was found in.

        Raises:
            ValueError: something hooked onto the model changes its predictions.
        """
        self.settle()
        facts = {"model": self.name, "weights_hash": self.weights_hash}
        return facts if self.hash == self.weights_hash else facts | {"model_hash": self.hash}

    def settle(self) -> None:
        """Be as frozen as when it was made, and have the weights hashed anew, before something is kept of the model.

        Raises:
            ValueError: something hooked onto the model changes its predictions.
        """
        check_unhooked(self.hf, self.name)
        self.hf.float().eval().requires_grad_(False)
        self.forget_hashes()

    def forget_hashes(self) -> dict[str, object]:
        """Have the weights hashed anew at the next asking, even if no change of theirs can be seen; returns what was known."""
        return {name: self.__dict__.pop(name) for name in ("weights_hash", "weights_state") if name in self.__dict__}

    @cached_property
    def hashes_beneath(self) -> list[tuple[str, str]]:
        """What `weights_hash` and `hash` were before each of the subnetworks that are applied now, the first one first."""
        return []

    @property
    def unembedding(self) -> tuple[Float[Tensor, "vocab d_model"], Float[Tensor, " vocab"] | None]:
        """The unembedding matrix and its bias, padding rows cut off."""
        head = self.hf.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return head.weight[: self.vocabulary_size].detach(), None if bias is None else bias[: self.vocabulary_size].detach()

    @property
    def final_norm(self) -> torch.nn.Module:
        """The norm between the last layer's residual stream and the unembedding."""
        return self.hf.get_submodule(self.architecture.final_norm)

    @property
    def logit_cap(self) -> float | None:
        """The bound of a tanh cap on the logits (Gemma 2); None where logits are linear in the last hidden state."""
        return getattr(self.hf.config, "final_logit_softcapping", None)

    @cached_property
    def prefix(self) -> list[int]:
        """What the tokenizer puts before every text: a beginning-of-sequence token for models that want one, mostly nothing.

        Every pass over the model puts it before each sequence, and nothing is ever predicted or measured on it.
        """
        return tokens_before(self.tokenizer)

    @cached_property
    def _ends(self) -> list[int]:
        """The tokens that end a document: the ends of text, and the beginning of another (some models know only that one)."""
        named = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        for config in (self.hf.config, self.hf.generation_config):
            ends = getattr(config, "eos_token_id", None)
            named += ends if isinstance(ends, list | tuple) else [ends]
        return sorted({token for token in named if token is not None and 0 <= token < self.vocabulary_size})

    @cached_property
    def positions(self) -> int | None:
        """How many tokens a sequence may have, prefix included; None where nothing says."""
        return getattr(self.hf.config, "max_position_embeddings", None)

    def prefixed(self, ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch more"]:
        """Ids with the prefix before each sequence.

        Raises:
            ValueError: they are more than the positions that the model has embeddings for.
        """
        self.check_length(ids.shape[1])
        return torch.cat([ids.new_tensor(self.prefix).expand(len(ids), -1), ids], dim=1)

    def check_length(self, sequence_length: int) -> None:
        """Raise ValueError if sequences of so many tokens and the prefix are longer than the model can read."""
        if self.positions is None or len(self.prefix) + sequence_length <= self.positions:
            return
        if has_table_of_positions(self.hf, self.positions):
            before = f" and the {len(self.prefix)} that its tokenizer puts before them" if self.prefix else ""
            raise ValueError(
                f"{self.name!r} has {self.positions} positions, too few for sequences of {sequence_length} tokens{before}; "
                f"use a sequence_length of at most {self.positions - len(self.prefix)}."
            )
        if "warned" not in self.__dict__:
            self.__dict__["warned"] = True
            log.warning(
                "Sequences of %d tokens are longer than the %d positions that %r was made for; it may read them badly.",
                len(self.prefix) + sequence_length,
                self.positions,
                self.name,
            )

    def hidden(
        self, ids: Int[Tensor, "batch pos"], weights: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The last hidden state, after the final norm, optionally with some weights replaced (by full parameter name)."""
        if self.hf.training:
            self.hf.eval()
        base = self.hf.base_model_prefix + "."
        inner = {name.removeprefix(base): value for name, value in (weights or {}).items()}
        return functional_call(self.hf.base_model, inner, (self.prefixed(ids),)).last_hidden_state[:, len(self.prefix) :]

    @contextmanager
    def skipping(self, blocks: Iterable[str]) -> Iterator[None]:
        """Within the context some attention and MLP modules are not computed: they write what they would with all-zero weights.

        Args:
            blocks: names of modules, of those in `Architecture.blocks`.
        """
        writing = [part for part in self.architecture.components if part.name in WRITING_COMPONENTS]
        parts = {part.parameter.rsplit(".", 2)[0]: part for part in writing}
        modules = [self.hf.get_submodule(block) for block in blocks]
        try:
            for block, module in zip(blocks, modules, strict=True):
                bias = getattr(self.hf.get_submodule(parts[block].parameter.removesuffix(".weight")), "bias", None)
                module.forward = partial(_attention_bias if parts[block].name == "o" else _bias, bias)
            yield
        finally:
            for module in modules:
                module.__dict__.pop("forward", None)

    def unembed(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape vocab"]:
        """Next-token logits of a last hidden state."""
        return self._capped(torch.nn.functional.linear(hidden, *self.unembedding))

    def log_partition(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape"]:
        """Log sum exp of the next-token logits of last hidden states, nats, without holding many of the logits."""
        if hidden[..., 0].numel() * self.vocabulary_size <= logits.LOGITS_AT_ONCE:
            return self.unembed(hidden).float().logsumexp(-1)
        return logits.log_partition(hidden, *self.unembedding, self.logit_cap)

    def logits_of(self, hidden: Float[Tensor, "*shape d_model"], tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The logit of one next token for each last hidden state."""
        weight, bias = self.unembedding
        logits = torch.linalg.vecdot(hidden, weight[tokens])
        return self._capped(logits if bias is None else logits + bias[tokens])

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def sample(self, prompt: str, tokens: Number = 60, seed: Number = 0) -> str:
        """Continue a text by sampling at temperature 1 from the model as it is now (within `subnetwork.applied`, from that)."""
        tokens, seed = whole_number("tokens", tokens, least=1), whole_number("seed", seed)
        try:
            prompt_ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        except Exception as error:  # of tokenizers: a lone surrogate, or no token for what it does not know
            raise ValueError(f"The tokenizer of {self.name!r} cannot read the prompt {prompt!r} ({error}).") from error
        if not prompt_ids and not self.prefix:
            raise ValueError(f"The prompt {prompt!r} has no tokens; give {self.name!r} some text to continue.")
        if max(prompt_ids, default=0) >= self.vocabulary_size:
            raise ValueError(f"The prompt {prompt!r} has tokens that {self.name!r} has no embedding of; leave them out.")
        self.check_length(len(prompt_ids) + tokens - 1)
        ids = torch.tensor([prompt_ids], dtype=torch.long, device=self.device)
        drawn = self._drawn(self.prefixed(ids), tokens, torch.Generator(self.device).manual_seed(seed))
        return self.tokenizer.decode([*ids[0].tolist(), *drawn[0].tolist()])

    def sample_documents(self, tokens: int, seed: int = 0, batch_size: int = 256) -> Iterator[list[int]]:
        """Sample documents from the model at temperature 1, until `tokens` are drawn.

        Raises:
            ValueError: the tokenizer has neither a beginning nor an end of text to start from, or the documents are so short
                that they make no text.
        """
        start = self.prefix or self._ends[:1]
        if not start:
            raise ValueError(f"The tokenizer of {self.name!r} has no token to start a document from; give a text as corpus.")
        begin = torch.tensor([start], device=self.device).expand(batch_size, -1)
        length = min(MAX_DOCUMENT, self.positions or MAX_DOCUMENT) - len(start)
        if length < 1:
            raise ValueError(f"{self.name!r} has {self.positions} positions, too few to draw documents; give a text as corpus.")
        generator = torch.Generator(self.device).manual_seed(seed)
        drawn = documents = 0
        with tqdm(total=tokens, desc=f"sampling from {self.name}", unit="token") as progress:
            while drawn < tokens:
                for ids in self._drawn(begin, length, generator).tolist():
                    document = list(takewhile(lambda token: token not in self._ends, ids))
                    drawn += len(document)
                    progress.update(len(document))
                    yield document
                documents += batch_size
                if documents >= FEWEST_DOCUMENTS and drawn < SHORTEST_DOCUMENTS * documents:
                    raise ValueError(
                        f"{self.name!r} ends its own texts at once ({drawn} tokens in {documents} documents), as models do "
                        "that want a chat template; give a text as corpus."
                    )

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the vocabulary of its tokenizer (`bigramlib.text.vocabulary.tokenizer_hash`)."""
        return tokenizer_hash(self.tokenizer)

    def check_vocabulary(self, text: Tokenized) -> None:
        """Raise ValueError unless a corpus, or the bigram table of one, has token ids of this model's vocabulary."""
        if text.vocabulary_size != self.vocabulary_size:
            raise ValueError(
                f"{text.description} has token ids for a vocabulary of {text.vocabulary_size}, but the model {self.name!r} has "
                f"{self.vocabulary_size} tokens; tokenize the text with the model's own tokenizer."
            )
        if text.tokenizer_hash is not None and text.tokenizer_hash != self.tokenizer_hash:
            raise ValueError(
                f"{text.description} has token ids of another tokenizer than that of the model {self.name!r}, though both have "
                f"{self.vocabulary_size} tokens; tokenize the text with the model's own tokenizer."
            )

    def load_corpus(
        self,
        source: str | Path | Iterable,
        *,
        evaluation_share: Number = EVALUATION_SHARE,
        seed: Number = 0,
        text_column: str = "text",
    ) -> tuple[TokenCorpus, TokenCorpus]:
        """Text for this model as (train, evaluation): any source of `corpus.load_corpus`, or its own samples.

        Args:
            source: "self" samples 200,000 tokens from the model (temperature 1), so that the bigram table is that of the
                model's own distribution: the right text where the training text is not known. Anything else is a text.
            evaluation_share: the share of tokens to hold out, in whole documents.
            seed: of the split, and of the samples.
            text_column: the column to read in tables.
        """
        if not isinstance(source, str | Path) or str(source) != SELF:
            return load_corpus(
                source,
                self.tokenizer,
                vocabulary_size=self.vocabulary_size,
                evaluation_share=evaluation_share,
                seed=seed,
                text_column=text_column,
            )
        seed = whole_number("seed", seed, least=0)
        self.settle()
        return stored_corpus(
            ("samples 2", self.hash, self._ends, SELF_TOKENS, seed),
            lambda: ((ids, " ".join(map(str, ids))) for ids in self.sample_documents(SELF_TOKENS, seed)),
            SELF,
            self.tokenizer,
            self.vocabulary_size,
            evaluation_share,
            seed,
        )

    @torch.inference_mode()
    @full_precision()
    def _drawn(self, ids: Int[Tensor, "batch pos"], tokens: int, generator: torch.Generator) -> Int[Tensor, "batch drawn"]:
        """Draw so many tokens after each sequence, at temperature 1, or fewer if every sequence has ended."""
        self.hf.eval()
        ends = ids.new_tensor(self._ends)
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        cache = None
        found: list[Tensor] = []
        while len(found) < tokens and not ended.all():
            output = self.hf(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            reached = output.logits[:, -1, : self.vocabulary_size].softmax(-1, dtype=torch.float64).cumsum(-1)
            place = reached[:, -1:] * torch.rand(len(ids), 1, generator=generator, device=ids.device, dtype=torch.float64)
            ids = torch.searchsorted(reached, place, right=True).clamp_(max=self.vocabulary_size - 1)
            ended |= torch.isin(ids[:, 0], ends)
            found.append(ids)
        return torch.cat(found, dim=1)

    def bridge(self) -> TransformerBridge:
        """A TransformerLens bridge around a copy of the model as it is now.

        The bridge rewrites what it wraps (it splits fused QKV matrices), so it never gets the model itself; inside
        `with subnetwork.applied(model):` it shows the subnetwork.
        """
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        hf = copy.deepcopy(self.hf)
        self.architecture.add_fused_biases(hf)
        hf.config.architectures = [type(hf).__name__]
        return build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)

    def to(self, device: str | torch.device) -> LanguageModel:
        """Move the model to a device, in place, and return it.

        Raises:
            ValueError: there is no such device here.
        """
        try:
            usable = not torch.empty(0, device=device).is_meta
            said = "it holds no weights"
        except (RuntimeError, AssertionError, TypeError) as error:
            usable, said = False, str(error).split(". ")[0].splitlines()[0]
        if not usable:
            raise ValueError(f"The device {str(device)!r} is not available here ({said}); use 'cpu'.")
        self.hf.to(device)
        return self


def tokens_before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a tokenizer puts before every text, found by a text that it has tokens for and puts nothing like beside."""
    pieces = ["a", *(tokenizer.decode([token]) for token in sorted(tokenizer.get_vocab().values())[:64])]
    for piece in pieces:
        try:
            alone, whole = (tokenizer(piece, add_special_tokens=special)["input_ids"] for special in (False, True))
        except Exception:  # of tokenizers: some have no token for what they do not know
            continue
        places = [place for place in range(len(whole)) if whole[place : place + len(alone)] == alone]
        if alone and len(places) == 1:
            return whole[: places[0]]
    return []


def has_table_of_positions(hf: PreTrainedModel, positions: int) -> bool:
    """Whether a model looks positions up in a table that ends (GPT-2's, OPT's, GPT-J's), instead of computing them."""
    embedding = hf.get_input_embeddings()
    tables = [module.weight for module in hf.modules() if isinstance(module, torch.nn.Embedding) and module is not embedding]
    tables += [buffer for buffer in hf.buffers() if buffer.ndim == 2]
    return any(positions <= len(table) <= positions + 2 for table in tables)


def check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    """Raise FloatingPointError, naming the first of the model's weights that is NaN or infinite."""
    for parameter, weight in weights.items():
        if not bool(weight.isfinite().all()):
            count = int((~weight.isfinite()).sum())
            raise FloatingPointError(
                f"{count} of the weights {parameter!r} of {name!r} are not finite numbers; load an intact copy of the model."
            )


def _bias(bias: Tensor | None, hidden_states: Tensor) -> Tensor:
    """The forward pass of an MLP whose weights are all zero."""
    nothing = torch.zeros_like(hidden_states)
    return nothing if bias is None else nothing + bias


def _attention_bias(bias: Tensor | None, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
    """The forward pass of an attention block whose weights are all zero."""
    return _bias(bias, hidden_states), None
