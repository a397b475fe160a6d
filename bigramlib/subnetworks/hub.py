"""Subnetworks on the Hugging Face hub, and in local folders of the same form: one safetensors file and a model card."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download

from bigramlib.disk import UNWRITABLE, reason, said, written_whole

if TYPE_CHECKING:
    from bigramlib.subnetworks.subnetwork import Subnetwork

FILE = "subnetwork.safetensors"
LOCAL = UNWRITABLE | {errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
"""Errors of this machine, not of the network."""
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


def write_folder(subnetwork: Subnetwork, folder: str | Path, repo: str | None) -> None:
    """Write a folder as it would lie on the hub: see `Subnetwork.save_pretrained`."""
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    subnetwork.save(folder / FILE)
    facts = [f"- {key}: {value}" for key, value in subnetwork.provenance.items() if key != "history"]
    data = ModelCardData(tags=["bigramlib", "subnetwork", "interpretability"], library_name="bigramlib")
    card = CARD.format(
        data=data.to_yaml(),
        model=subnetwork.provenance.get("model", "an unknown model"),
        repo=repo or folder,
        kept=subnetwork.kept,
        total=subnetwork.total,
        density=subnetwork.density,
        share=subnetwork.first_mlp_share(),
        facts="\n".join(facts) or "not recorded",
    )
    with written_whole(folder / "README.md") as temporary:
        ModelCard(card).save(temporary)


def upload(subnetwork: Subnetwork, repo: str, private: bool, token: str | None) -> str:
    """Upload a folder to the hub: see `Subnetwork.push_to_hub`."""
    api = HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(subnetwork, folder, repo)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Subnetwork by bigramlib"))


def found(source: str | Path, revision: str | None) -> Path:
    """The subnetwork file of a folder or a hub repository."""
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 (a home that is not known is no error)
    return folder / FILE if folder.is_dir() else downloaded(str(source), FILE, revision)


def downloaded(repo: str, file: str, revision: str | None) -> Path:
    """A file of a hub repository in the hub's own cache.

    Raises:
        ValueError: it could not be had.
        OSError: the hub's cache cannot be read or written.
    """
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in LOCAL:
            raise said(
                error, f"{file!r} of {repo!r} could not be kept in the hub's cache ({reason(error)}); mend that."
            ) from error
        raise ValueError(
            f"{file!r} of {repo!r} (revision {revision or 'main'}) could not be had from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the network, or give a local path."
        ) from error
