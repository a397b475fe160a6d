"""Model cards of a subnetwork, and of a model of which only a subnetwork is kept. They name no folder of one's machine."""

from __future__ import annotations

import re
from pathlib import PureWindowsPath

from huggingface_hub import ModelCardData

from bigramlib.subnetworks.provenance import model_of

CARD = "README.md"
"""The name of a model card in a folder or repository."""
TAGS = ["bigramlib", "subnetwork", "interpretability"]
OF_SUBNETWORK = """---
{data}
---

# A subnetwork of {model}

{kept}, {first_mlp} in the first layer's MLP. Found by bigramlib, after
[Chang & Bergen 2025](https://arxiv.org/abs/2504.15471): keep these attention and MLP weights, set the others to zero, and
leave embeddings, norms, biases and unembedding as they are.

```python
from bigramlib import Subnetwork, load_model

model = load_model("{model}")
subnetwork = Subnetwork.from_pretrained("{repo}")
with subnetwork.applied(model):
    ...
```

## What is known

{facts}

## Provenance

{provenance}
"""
OF_MODEL = """---
{data}
---

# A subnetwork of {model}, as a model

This is {model} of which only a subnetwork is kept: {kept}. All its other attention and
MLP weights are zero; embeddings, norms, biases and unembedding are as they were. The subnetwork was found or made by bigramlib,
after [Chang & Bergen 2025](https://arxiv.org/abs/2504.15471). It is meant for studying the model, not for writing text. The
licence is that of {model}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
```

`bigramlib.load_model("{repo}")` loads it too. Its weights are float32.

## What is known

{facts}
"""


def card(template: str, repo: str, provenance: dict, facts: dict[str, str]) -> str:
    """The text of a model card.

    Args:
        template: `OF_SUBNETWORK` or `OF_MODEL`.
        repo: the name that the card tells readers to load.
        provenance: of the subnetwork.
        facts: what `bigramlib.subnetworks.description.facts` gives.
    """
    model = without_places(model_of(provenance))
    base = model.partition("@")[0]
    data = ModelCardData(
        tags=TAGS,
        library_name="bigramlib" if template == OF_SUBNETWORK else "transformers",
        base_model=base if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) else None,
    )
    return template.format(
        data=data.to_yaml(),
        model=model,
        repo=repo,
        kept=facts["kept"],
        first_mlp=facts["in the first MLP"],
        facts=_listed({"base model": model, **facts}),
        provenance=_listed({key: value for key, value in provenance.items() if key != "history"}) or "not recorded",
    )


def without_places(value: object) -> str:
    """A fact as text in which every text that is a path of this machine is only the last part of it."""

    def shown(part: object) -> object:
        if isinstance(part, dict):
            return {key: shown(each) for key, each in part.items() if key != "history"}
        if isinstance(part, list | tuple):
            return [shown(each) for each in part]
        if isinstance(part, str) and re.match(r"[/~.\\]|\w:[/\\]", part):
            return PureWindowsPath(part).name
        return part

    return str(shown(value))


def _listed(facts: dict) -> str:
    return "\n".join(f"- {key}: {without_places(value)}" for key, value in facts.items())
