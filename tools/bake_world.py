"""Pretrain the base models of the small world that come with the library: `python tools/bake_world.py a0 b0 c0 a1 b1 c1`.

A base takes about three minutes on one CPU core. The letter says which third of the tasks it never sees, the number is the
seed of its weights and its text. Files go to bigramlib/models/assets/world-NAME.
"""

import logging
import sys
from dataclasses import replace

import torch

from bigramlib.instruction.world import PRETRAINING, world_corpus, world_tokenizer
from bigramlib.models.mini import ASSETS, build_model, pretrain

CARD = """# world-{name}

A GPT-NeoX of .8 million weights for experiments on in-context learning and instruction tuning, pretrained by
`tools/bake_world.py` on the small world (`bigramlib/instruction/world.py`), whose text is made by rules. It has seen all
tasks but those to which `exposures("{base}")` gives 0. Its words mean nothing outside. Weights are stored as int8 rows with
an fp32 scale; the rounded weights are the model. Licence: MIT, like the library.

Training loss at the end, nats per word: {loss:.3f}
"""


def bake(name: str) -> None:
    """Pretrain one base and write its files."""
    base, seed = name[0], int(name[1:])
    config = replace(PRETRAINING, seed=seed)
    corpus = world_corpus(base, config.steps * config.batch_size * config.sequence_length // 2, seed)
    folder = ASSETS / f"world-{name}"
    folder.mkdir(exist_ok=True)
    losses = pretrain(build_model(config), corpus, config, folder)
    world_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(name=name, base=base, loss=sum(losses[-50:]) / 50))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    for base_name in sys.argv[1:]:
        bake(base_name)
