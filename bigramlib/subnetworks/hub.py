"""Subnetworks on the Hugging Face hub, and in local folders of the same form: one safetensors file and a model card.

Nothing here knows the class `Subnetwork`, whose methods `save_pretrained`, `push_to_hub` and `from_pretrained` call it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download

from bigramlib.disk import UNWRITABLE, reason, said, written_whole

FILE = "subnetwork.safetensors"
"""The name of the subnetwork's file in a folder or repository."""
LOCAL = UNWRITABLE | {errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
"""Numbers of errors that come from this machine and not from the network."""
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


def write_card(folder: Path, repo: str, provenance: dict, *, kept: int, total: int, first_mlp_share: float) -> None:
    """Write the model card of a subnetwork, `README.md`, into a folder.

    Args:
        folder: where it is written.
        repo: the name that the card tells readers to load.
        provenance: the facts that the card lists, all but the history.
        kept: number of kept weights.
        total: number of maskable weights.
        first_mlp_share: share of the kept weights that lies in the first layer's MLP.
    """
    facts = [f"- {key}: {value}" for key, value in provenance.items() if key != "history"]
    data = ModelCardData(tags=["bigramlib", "subnetwork", "interpretability"], library_name="bigramlib")
    card = CARD.format(
        data=data.to_yaml(),
        model=provenance.get("model", "an unknown model"),
        repo=repo,
        kept=kept,
        total=total,
        density=kept / total,
        share=first_mlp_share,
        facts="\n".join(facts) or "not recorded",
    )
    with written_whole(folder / "README.md") as temporary:
        ModelCard(card).save(temporary)


def upload(folder: Path, repo: str, private: bool, token: str | None) -> str:
    """Upload a folder to a repository of the hub, which is made if it is missing; returns the address of the commit."""
    api = HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Subnetwork by bigramlib"))


def found(source: str | Path, revision: str | None) -> Path:
    """The path of the subnetwork's file in a folder, or in the hub's cache if `source` names a repository.

    Raises:
        ValueError: it could not be fetched from the hub.
        OSError: the hub's cache cannot be read or written.
    """
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 (a home that is not known is no error)
    return folder / FILE if folder.is_dir() else downloaded(str(source), FILE, revision)


def downloaded(repo: str, file: str, revision: str | None) -> Path:
    """The path of a repository's file in the hub's own cache, fetched if it is not there.

    Raises:
        ValueError: it could not be fetched from the hub.
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
