"""A finished model to the Hugging Face hub, where its owner wants it there; where its base lies stays here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from vl_model.model.model_card import CARD, FOLDERS
from workspace.json_files import read_object

#: What goes wrong on the way: HfHubHTTPError's base is the error of the hub's HTTP client, which differs by version.
UNREACHABLE: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, LocalTokenNotFoundError, OSError, ValueError)


def check_repository(name: str) -> None:
    """Raises ValueError for what is no repository's name; before a training, not after it."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        name_is = "ORGANISATION/NAME, of letters, digits, '-', '_' and '.'"
        raise ValueError(f"--push_to_hub {name!r}: a repository's name is {name_is}") from None


def push(final: Path, repository: str) -> str:
    """Upload the folder to a repository, made private where there is none; a line that says what became of it.

    A hub that cannot be reached costs nothing but the upload.
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
    """The folder's files; in ``site_model.json`` a base that lies on this machine is named without its path.

    ``base_sha256`` says which weights are meant. The file on the disk keeps the path, by which the base is found.
    """
    contents: dict[Path, Path | bytes] = {path: path for path in sorted(final.rglob("*")) if path.is_file()}
    card = read_object(final / CARD, "train_vl.py")
    contents[final / CARD] = (json.dumps(card | without_paths(card), indent=2) + "\n").encode()
    return [CommitOperationAdd(path.relative_to(final).as_posix(), content) for path, content in contents.items()]


def without_paths(card: Mapping[str, Any]) -> dict[str, Any]:
    """``local-dir:/home/me/base`` -> ``local-dir:base``; a weights file's name alone. Tags have no slash to lose."""
    kind, _, path = card["model"].partition(":")
    return {
        "model": f"{kind}:{Path(path).name}" if card["model"].startswith(FOLDERS) else card["model"],
        "pretrained": card["pretrained"] and Path(card["pretrained"]).name,
    }
