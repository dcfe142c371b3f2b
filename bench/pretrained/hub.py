"""Models from the Hugging Face hub: downloaded once, read from its cache afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import BenchError, ConfigError
from bench.pretrained.model_folder import FILE_PATTERNS, check_folder

__all__ = ["cached", "download"]


def cached(name: str) -> Path | None:
    """Folder of a model's files in the hub's cache, or None if they are not all there.

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(**_wanted(name), local_files_only=True))
        check_folder(folder, name)
    except (LocalEntryNotFoundError, ConfigError):
        return None
    return folder


def download(name: str, say: Callable[[str], None]) -> Path:
    """Folder of a model's files in the hub's cache, downloaded unless they are all there.

    The hub's own settings hold (``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``).
    What is in the cache is used without asking whether the hub has a newer version.

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        say: called with one line of text before a download.

    Raises:
        ConfigError: no such model or revision, or it has no safetensors, or access must be asked
            for.
        BenchError: offline, or the download failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = _wanted(name)
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        check_folder(folder, name)
    except (LocalEntryNotFoundError, ConfigError) as absent:
        if HF_HUB_OFFLINE:
            raise BenchError(
                f"model {name!r} is not (wholly) in the Hugging Face cache, and HF_HUB_OFFLINE "
                "forbids a download. Unset it, or fetch the model on a machine with network "
                f"(hf download {wanted['repo_id']}) and copy the cache, or give its folder."
            ) from absent
        say(f"downloading {name} from the Hugging Face hub")
        folder = _fetch(name, wanted)
        check_folder(folder, name)
    return folder


def _wanted(name: str) -> dict[str, Any]:
    repository, _, revision = name.partition("@")
    return {
        "repo_id": repository,
        "revision": revision or None,
        "allow_patterns": list(FILE_PATTERNS),
    }


def _fetch(name: str, wanted: dict[str, Any]) -> Path:
    import httpx
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(**wanted))
    except hub.GatedRepoError as error:
        raise ConfigError(
            f"model {name!r} is gated: its owner grants access on the model's page. Accept the "
            "terms there and log in (hf auth login, or set HF_TOKEN)."
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        raise ConfigError(
            f"model {name!r}: the Hugging Face hub has no such model or revision, or it is "
            "private. Check the spelling (OWNER/NAME@REVISION), or log in (hf auth login)."
        ) from error
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise BenchError(
            f"model {name!r}: the download from the Hugging Face hub failed: {error}. Check the "
            "network and HF_ENDPOINT, then run the command again; what has arrived is kept."
        ) from error
