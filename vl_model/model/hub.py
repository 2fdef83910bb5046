"""Upload of a finished model to the Hugging Face hub, on request, without the paths of this machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from vl_model.model.model_card import CARD, FOLDERS
from workspace.json_files import read_object
from workspace.setting_error import SettingError

#: Errors of the connection to the hub. HfHubHTTPError's base is the error of the HTTP client, which differs by version.
UNREACHABLE: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, LocalTokenNotFoundError, OSError, ValueError)


def check_repository(name: str) -> None:
    """Check a repository's name, so that a wrong one is reported before the training; raises ValueError."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise SettingError(
            "push_to_hub",
            f"{name!r}: is not a repository's name; give ORGANISATION/NAME, of letters, digits, '-', '_' and '.'",
        ) from None


def push(final: Path, repository: str) -> str:
    """Upload the folder to a repository, which is created as a private one if it does not exist.

    Returns a line that reports success or failure: an unreachable hub is no error, since the run itself is complete.
    """
    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.create_commit(repository, uploads(final), commit_message="Upload a trained model")
    except UNREACHABLE as error:
        reason = " ".join(str(error).split())[:200]
        later = "the same command with --resume_from_checkpoint latest pushes it later"
        return f"{repository}: not pushed ({reason}); {later}"
    return f"pushed to {commit.repo_url}" if commit.repo_url else f"pushed to {repository}"


def uploads(final: Path) -> list[CommitOperationAdd]:
    """Return the folder's files for upload, with ``site_model.json`` freed of paths to a base on this machine.

    ``base_sha256`` still identifies the base. The file on the disk keeps the path, from which the base is loaded.
    """
    contents: dict[Path, Path | bytes] = {path: path for path in sorted(final.rglob("*")) if path.is_file()}
    card = read_object(final / CARD, "train_vl.py")
    contents[final / CARD] = (json.dumps(card | without_paths(card), indent=2) + "\n").encode()
    return [CommitOperationAdd(path.relative_to(final).as_posix(), content) for path, content in contents.items()]


def without_paths(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's `model` and `pretrained` without folders: ``local-dir:/a/base`` becomes ``local-dir:base``."""
    kind, _, path = card["model"].partition(":")
    return {
        "model": f"{kind}:{Path(path).name}" if card["model"].startswith(FOLDERS) else card["model"],
        "pretrained": card["pretrained"] and Path(card["pretrained"]).name,
    }
