"""Subnetworks on the Hugging Face hub, and in local folders of the same form: one safetensors file and a model card
(see cards.py).

Nothing here knows the class `Subnetwork`, whose methods `save_pretrained`, `push_to_hub` and `from_pretrained` call it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from bigramlib.disk import UNWRITABLE, reason, said

FILE = "subnetwork.safetensors"
"""The name of the subnetwork's file in a folder or repository."""
LOCAL = UNWRITABLE | {errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
"""Numbers of errors that come from this machine and not from the network."""


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
