"""Published models on the Hugging Face Hub, ``hf://user/name@revision``, through the package huggingface_hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from detseg.errors import CheckpointError, ConfigError, DetsegError
from detseg.weights.model_card import CARD, WEIGHTS

log = logging.getLogger(__name__)

SCHEME = "hf://"


class HubAddress(NamedTuple):
    """A repository, and a commit, tag or branch of it."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> HubAddress:
    """Parse ``hf://user/name`` or ``hf://user/name@revision``. Raises ConfigError for anything else."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if not match:
        raise ConfigError(f"{text}: must be {SCHEME}user/name or {SCHEME}user/name@revision")
    return HubAddress(match[1], match[2])


def download(text: str) -> Path:
    """Download the weights and the card of a model into the cache of huggingface_hub, and return their folder.

    Without a revision it is the newest one, whose commit is logged: give it to get the same weights again.

    Raises CheckpointError if the model cannot be fetched, DetsegError without huggingface_hub.
    """
    address, hub = parse_address(text), _library()
    try:
        folder = Path(
            hub.snapshot_download(address.repository, revision=address.revision, allow_patterns=[WEIGHTS, CARD])
        )
    except Exception as error:  # of the network, or no such model
        raise CheckpointError(f"{text}: cannot be downloaded: {error}") from error
    log.info("%s: %s", text, address._replace(revision=folder.name))  # the folder of a snapshot is named by its commit
    return folder


def upload(folder: Path, text: str) -> HubAddress:
    """Upload a published folder to a repository, which is created, and return the address of the new commit.

    Raises ConfigError for an address with a revision, CheckpointError if the upload fails, DetsegError without
    huggingface_hub.
    """
    address, hub = parse_address(text), _library()
    if address.revision:
        raise ConfigError(f"{text}: leave out @{address.revision}; the upload makes a new revision")
    try:
        api = hub.HfApi()
        api.create_repo(address.repository, exist_ok=True)
        commit = api.upload_folder(repo_id=address.repository, folder_path=folder, commit_message="Publish the model")
    except Exception as error:  # of the network, or of the rights of the user
        raise CheckpointError(f"{text}: cannot be uploaded: {error}; `hf auth login` logs you in") from error
    return address._replace(revision=commit.oid)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DetsegError(f"{SCHEME} needs the package huggingface_hub: pip install 'detseg[hub]'") from error
    return huggingface_hub
