"""A finished model to the Hugging Face hub, where its owner wants it there."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

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
        commit = api.upload_folder(repo_id=repository, folder_path=final, commit_message="Upload a trained model")
    except UNREACHABLE as error:
        reason = " ".join(str(error).split())[:200]
        return f"{repository}: not pushed ({reason}); hf upload {repository} {final} does it later"
    return f"pushed to {commit.repo_url}" if commit.repo_url else f"pushed to {repository}"
