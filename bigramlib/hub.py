"""Subnetworks on the Hugging Face hub, and in local folders of the same form: one safetensors file and a model card."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download

FILE = "subnetwork.safetensors"
CARD = """---
{data}
---

# A subnetwork of {model}

{kept:,} of {total:,} maskable weights ({density:.2%}), {share:.0%} of them in the first layer's MLP. Found by bigramlib, after
[Chang & Bergen 2025](https://arxiv.org/abs/2504.15471): keep these attention and MLP weights, set the others to zero, and
leave embeddings, norms, biases and unembedding as they are.

```python
from bigramlib import Subnetwork, load_model

model = load_model("{model}")
subnetwork = Subnetwork.from_pretrained("{repo}")
with subnetwork.applied(model):
    ...
```

## Provenance

{facts}
"""


class HubMixin:
    """Gives a class with `save` and `load` its folders and hub repositories."""

    def save_pretrained(self, folder: str | Path, repo: str | None = None) -> None:
        """Write a folder as it would lie on the hub: the subnetwork and a model card filled from its provenance.

        Args:
            folder: made if missing.
            repo: the name that the card tells readers to load; the folder's by default.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / FILE)
        facts = [f"- {key}: {value}" for key, value in self.provenance.items() if key != "history"]
        model = str(self.provenance.get("model", "an unknown model"))
        data = ModelCardData(tags=["bigramlib", "subnetwork", "interpretability"], library_name="bigramlib")
        card = CARD.format(
            data=data.to_yaml(),
            model=model,
            repo=repo or folder,
            kept=self.kept,
            total=self.total,
            density=self.density,
            share=self.first_mlp_share(),
            facts="\n".join(facts) or "not recorded",
        )
        ModelCard(card).save(folder / "README.md")

    def push_to_hub(self, repo: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to a hub repository, made if missing; returns the address of the commit."""
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Subnetwork by bigramlib"))

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> HubMixin:
        """Load from a folder or a hub repository.

        Raises:
            ValueError: no such folder or repository, or what is there is not a whole subnetwork.
        """
        folder = Path(source).expanduser()
        if folder.is_dir():
            return cls.load(folder / FILE)
        return cls.load(downloaded(str(source), FILE, revision))


def downloaded(repo: str, file: str, revision: str | None) -> Path:
    """A file of a hub repository in the hub's own cache.

    Raises:
        ValueError: it could not be had.
    """
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:
        raise ValueError(
            f"{file!r} of {repo!r} (revision {revision or 'main'}) could not be had from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the network, or give a local path."
        ) from error
