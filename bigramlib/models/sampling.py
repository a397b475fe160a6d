"""Drawing text from a model at temperature 1: how it continues a prompt, and documents of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.models.locks import lock_of
from bigramlib.models.positions import Positions
from bigramlib.numeric import Number, full_precision
from bigramlib.progress import tqdm
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.loading import stored_corpus
from bigramlib.text.sources import SELF

SELF_TOKENS = 200_000
"""How many tokens the corpus "self" has, a model's own text."""
MAX_DOCUMENT = 512
"""The longest document that is drawn, in tokens."""
FEWEST_DOCUMENTS, SHORTEST_DOCUMENTS = 4096, 2
"""A model whose first 4096 documents have fewer than 2 tokens on average gives no text."""


@dataclass(frozen=True)
class Sampler:
    """Draws tokens from a model.

    Attributes:
        hf: the model.
        tokenizer: its tokenizer.
        name: what the user calls it, for messages.
        vocabulary_size: only token ids below it are drawn.
        prefix: the tokens that stand before every text.
        end_tokens: the tokens that end a document.
        positions: how many tokens a sequence may have.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    vocabulary_size: int
    prefix: list[int]
    end_tokens: list[int]
    positions: Positions

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.hf.get_input_embeddings().weight.device

    @torch.inference_mode()
    @full_precision()
    def draw(self, ids: Int[Tensor, "batch pos"], tokens: int, generator: torch.Generator) -> Int[Tensor, "batch drawn"]:
        """Draw so many tokens after each sequence, or fewer if every sequence has ended."""
        self.hf.eval()
        ends = ids.new_tensor(self.end_tokens)
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        cache, new = None, ids
        found: list[Tensor] = []
        while len(found) < tokens and not ended.all():
            with lock_of(self.hf):
                output = self.hf(new, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.get("past_key_values")
            reached = output.logits[:, -1, : self.vocabulary_size].softmax(-1, dtype=torch.float64).cumsum(-1)
            place = reached[:, -1:] * torch.rand(len(ids), 1, generator=generator, device=ids.device, dtype=torch.float64)
            drawn = torch.searchsorted(reached, place, right=True).clamp_(max=self.vocabulary_size - 1)
            ended |= torch.isin(drawn[:, 0], ends)
            found.append(drawn)
            new = torch.cat([new, drawn], dim=1) if cache is None else drawn  # OpenAI's first GPT has no cache
        return torch.cat(found, dim=1)

    def continued(self, prompt: str, tokens: int, seed: int) -> str:
        """A prompt followed by so many tokens, or fewer if the text has ended.

        Raises:
            ValueError: the tokenizer cannot read the prompt, or the model cannot continue it.
        """
        ids = self.read(prompt)
        self.positions.check(len(ids) + tokens - 1)
        begin = torch.tensor([[*self.prefix, *ids]], dtype=torch.long, device=self.device)
        drawn = self.draw(begin, tokens, torch.Generator(self.device).manual_seed(seed))
        return self.tokenizer.decode([*ids, *drawn[0].tolist()])

    def read(self, prompt: str) -> list[int]:
        """The token ids of a prompt, without the prefix.

        Raises:
            ValueError: the tokenizer cannot read it, the model has no embedding of one of its tokens, or neither it nor the
                prefix has any.
        """
        try:
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        except Exception as error:  # of tokenizers: a lone surrogate, or no token for what it does not know
            raise ValueError(f"The tokenizer of {self.name!r} cannot read the prompt {prompt!r} ({error}).") from error
        if not ids and not self.prefix:
            raise ValueError(f"The prompt {prompt!r} has no tokens; give {self.name!r} some text to continue.")
        if max(ids, default=0) >= self.vocabulary_size:
            raise ValueError(f"The prompt {prompt!r} has tokens that {self.name!r} has no embedding of; leave them out.")
        return ids

    def documents(self, tokens: int, seed: int = 0, batch_size: int = 256) -> Iterator[list[int]]:
        """Draw documents, batch by batch, until they have so many tokens together.

        Raises:
            ValueError: there is no token to start a document from, or the documents are so short that they make no text.
        """
        start = self.prefix or self.end_tokens[:1]
        if not start:
            raise ValueError(f"The tokenizer of {self.name!r} has no token to start a document from; give a text as corpus.")
        begin = torch.tensor([start], device=self.device).expand(batch_size, -1)
        length = min(MAX_DOCUMENT, self.positions.count or MAX_DOCUMENT) - len(start)
        if length < 1:
            raise ValueError(
                f"{self.name!r} has {self.positions.count} positions, too few to draw documents; give a text as corpus."
            )
        generator = torch.Generator(self.device).manual_seed(seed)
        drawn = documents = 0
        with tqdm(total=tokens, desc=f"sampling from {self.name}", unit="token") as progress:
            while drawn < tokens:
                for ids in self.draw(begin, length, generator).tolist():
                    document = list(takewhile(lambda token: token not in self.end_tokens, ids))
                    drawn += len(document)
                    progress.update(len(document))
                    yield document
                documents += batch_size
                if documents >= FEWEST_DOCUMENTS and drawn < SHORTEST_DOCUMENTS * documents:
                    raise ValueError(
                        f"{self.name!r} ends its own texts at once ({drawn} tokens in {documents} documents), as models do "
                        "that want a chat template; give a text as corpus."
                    )

    def corpus(self, model_hash: str, evaluation_share: Number, seed: int) -> tuple[TokenCorpus, TokenCorpus]:
        """`SELF_TOKENS` tokens of documents as (train, evaluation), kept in the store.

        Args:
            model_hash: of the model (`LanguageModel.hash`).
            evaluation_share: the share of tokens to hold out, in whole documents.
            seed: of the split, and of the documents.
        """
        return stored_corpus(
            ("samples 2", model_hash, self.end_tokens, SELF_TOKENS, seed),
            lambda: ((ids, " ".join(map(str, ids))) for ids in self.documents(SELF_TOKENS, seed)),
            SELF,
            self.tokenizer,
            self.vocabulary_size,
            evaluation_share,
            seed,
        )
