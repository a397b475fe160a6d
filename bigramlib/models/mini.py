"""The embedded model `mini`: how it was pretrained, a small GPT-NeoX with a byte-level BPE tokenizer, and how it is stored.

A checkpoint takes one byte a weight: int8 rows with one fp32 scale each, in safetensors. The rounded weights *are* the model:
pretraining reports its figures on them, and masks are trained on them.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from bigramlib.disk import written_whole
from bigramlib.progress import tqdm
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus
from bigramlib.text.formats import DOCUMENT_SEPARATOR

ASSETS = Path(__file__).parent / "assets"
"""Where the embedded models lie, a folder each."""
_SCALE = "::scale"


@dataclass(frozen=True)
class PretrainConfig:
    """Shape and recipe of the embedded model.

    The tied embedding lets four layers of width 256 and eight checkpoints fit into the package at one byte a weight.
    """

    vocabulary_size: int = 4096
    width: int = 256
    layers: int = 4
    heads: int = 8
    dropout: float = 0.05
    batch_size: int = 32
    sequence_length: int = SEQUENCE_LENGTH
    steps: int = 1600
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    checkpoint_steps: tuple[int, ...] = (0, 32, 64, 128, 256, 512, 1024, 1600)
    bfloat16: bool = True
    seed: int = 0


SETTINGS = {
    "mini": PretrainConfig(),
    "tiny": PretrainConfig(
        vocabulary_size=512, width=32, layers=2, heads=2, steps=60, warmup_steps=10, checkpoint_steps=(0, 8, 60)
    ),
}


def train_tokenizer(documents: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer whose only special token ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[DOCUMENT_SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=DOCUMENT_SEPARATOR, bos_token=DOCUMENT_SEPARATOR)


@torch.inference_mode(False)
def build_model(config: PretrainConfig) -> GPTNeoXForCausalLM:
    """The untrained model, drawn from the config's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=config.vocabulary_size,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.width,
                max_position_embeddings=2 * config.sequence_length,
                hidden_dropout=config.dropout,
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
            )
        )


@torch.inference_mode(False)
@torch.enable_grad()
def pretrain(
    model: GPTNeoXForCausalLM, train: TokenCorpus, config: PretrainConfig, folder: Path, device: str = "cpu"
) -> list[float]:
    """Train the model with AdamW and next-token cross-entropy; write `step<N>.safetensors` into the folder.

    The learning rate rises linearly over the warm-up and falls linearly to zero. Weight matrices decay, vectors do not.
    A folder that already holds the finished run of the same recipe on the same text is read instead.

    Returns:
        The training loss of every step, in nats per token.
    """
    recipe = {**asdict(config), "corpus": train.hash}
    recipe_file, losses_file = folder / "recipe.json", folder / "losses.csv"
    if recipe_file.exists() and json.loads(recipe_file.read_text()) == json.loads(json.dumps(recipe)):
        return np.loadtxt(losses_file).tolist()
    recipe_file.unlink(missing_ok=True)
    for stale in folder.glob("step*.safetensors"):
        stale.unlink()
    model.config.save_pretrained(folder)
    if 0 in config.checkpoint_steps:
        save_checkpoint(folder / "step0.safetensors", _weights(model))
    losses = []
    for step, loss in _steps(model.to(device).train(), train, config):
        losses.append(loss)
        if step in config.checkpoint_steps:
            save_checkpoint(folder / f"step{step}.safetensors", _weights(model))
    model.eval()
    np.savetxt(losses_file, losses, fmt="%.4f")
    with written_whole(recipe_file) as temporary:
        temporary.write_text(json.dumps(recipe, indent=1))
    return losses


def _steps(model: GPTNeoXForCausalLM, train: TokenCorpus, config: PretrainConfig) -> Iterator[tuple[int, float]]:
    """Take every optimizer step, and yield its number and the loss before it, nats per token."""
    optimizer, schedule = _optimizer(model, config)
    generator = np.random.default_rng(config.seed)
    recent: deque[float] = deque(maxlen=50)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for step in (progress := tqdm(range(1, config.steps + 1), desc="pretraining", unit="step")):
            tokens = torch.from_numpy(train.sample(config.batch_size, config.sequence_length + 1, generator)).to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bfloat16):
                logits = model(tokens[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            recent.append(loss.item())
            if not math.isfinite(recent[-1]):
                raise FloatingPointError(f"The pretraining loss became {recent[-1]} at step {step}; lower learning_rate.")
            if step % 10 == 0:
                progress.set_postfix(nats=f"{np.mean(recent):.3f}")
            yield step, recent[-1]


def _optimizer(model: GPTNeoXForCausalLM, config: PretrainConfig) -> tuple[Optimizer, LRScheduler]:
    """AdamW, and the learning rate of each step."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = LambdaLR(
        optimizer,
        lambda step: min((step + 1) / config.warmup_steps, (config.steps - step) / (config.steps - config.warmup_steps)),
    )
    return optimizer, schedule


def save_checkpoint(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write named tensors; matrices are rounded to 127 steps a side of each row's largest value, vectors stay fp32."""
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        value = value.detach().float().cpu()
        if value.ndim == 2:
            scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            tensors[name] = (value / scale).round().to(torch.int8)
            tensors[name + _SCALE] = scale
        else:
            tensors[name] = value.contiguous()
    with written_whole(path) as temporary:
        save_file(tensors, temporary)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read what `save_checkpoint` wrote, as fp32 tensors."""
    tensors = load_file(path)
    return {
        name: value.float() * tensors[name + _SCALE] if name + _SCALE in tensors else value
        for name, value in tensors.items()
        if not name.endswith(_SCALE)
    }


def model_card(config: PretrainConfig, corpus: str, cross_entropies: dict[str, float]) -> str:
    """The README of the embedded model, in Markdown; cross-entropies in nats per held-out token, by predictor."""
    recipe = "\n".join(f"| {name} | {value} |" for name, value in asdict(config).items())
    results = "\n".join(f"| {name} | {value:.3f} |" for name, value in cross_entropies.items())
    return f"""# mini

A GPT-NeoX language model for experiments that must run in minutes on two CPU cores, trained by
`notebooks/00_pretrain_mini.ipynb` on the corpus `{corpus}` (held-out documents never seen). Not for generating text
that anybody should rely on. Weights are stored as int8 rows with an fp32 scale (`bigramlib.models.mini`); the rounded
weights are the model. Licence: MIT, like the library; the default corpus is in the public domain.

| held-out predictor | cross-entropy (nats per token) |
|---|---|
{results}

| recipe | |
|---|---|
{recipe}
"""


def _weights(model: GPTNeoXForCausalLM) -> dict[str, Tensor]:
    """The model's own tensors, a tied unembedding left out."""
    return dict(model.named_parameters())
