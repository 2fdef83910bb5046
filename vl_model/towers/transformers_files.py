"""Find the files of a transformers model: in a folder, in the hub's cache, or on the hub, in this order.

The hub is contacted only for files that are not on this machine, so that offline machines work.
"""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from workspace.layout import home_expanded
from workspace.setting_error import SettingError

#: The files of a model. Each line lists alternatives; all files of one alternative must exist.
NEEDED: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("config.json",),),
    (
        ("model.safetensors",),
        ("model.safetensors.index.json",),
        ("pytorch_model.bin",),
        ("pytorch_model.bin.index.json",),
    ),
    (("preprocessor_config.json",), ("processor_config.json",)),
    (("tokenizer.json",), ("spiece.model",), ("tokenizer.model",), ("vocab.json", "merges.txt")),
)

#: Files that are copied along with fine-tuned weights: they define how images and texts become inputs.
COMPANIONS = (
    *("preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("spiece.model", "tokenizer.model", "vocab.json", "merges.txt"),
)

_SMALL = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def find_model(name: str) -> Path:
    """Return the folder with the files of the model ``hf:name``.

    Raises ValueError, in one line, if files are missing, with their names and the remedy.
    """
    folder = home_expanded(name, "model")
    if folder.is_dir():
        if missing := missing_files(folder):
            raise SettingError("model", f"'hf:{name}': missing files: {', '.join(missing)}; {_remedy('REPOSITORY')}")
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SettingError(
            "model",
            f"'hf:{name}': no such folder; give an existing one, or a name such as hf:openai/clip-vit-base-patch16",
        )
    return _cached(name) or _downloaded(name)


def missing_files(folder: Path) -> list[str]:
    """Return the names of the files that a model needs and `folder` lacks; of alternatives, the first."""
    return [
        alternatives[0][0]
        for alternatives in NEEDED
        if not any(all((folder / name).is_file() for name in names) for names in alternatives)
    ]


def read_companions(folder: Path) -> dict[str, bytes]:
    """Return the contents of the processor's and the tokenizer's files, by file name."""
    return {name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()}


def _cached(name: str) -> Path | None:
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    return None if missing_files(folder) else folder


def _downloaded(name: str) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_SMALL)))
        for pattern in _WEIGHTS:  # .bin files only if the repository has no safetensors
            if "model.safetensors" in missing_files(folder):
                snapshot_download(name, allow_patterns=[pattern])
    except GatedRepoError:
        raise SettingError(
            "model",
            f"'hf:{name}': requires a licence; accept it on the model's page on the hub, then run hf auth login",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise SettingError(
            "model",
            f"'hf:{name}': the hub has no model of this name that you may read; check the name, or run hf auth login",
        ) from None
    except (HfHubHTTPError, OSError, ValueError, RuntimeError):
        raise SettingError(
            "model", f"'hf:{name}': is not on this machine, and the hub cannot be reached; {_remedy(name)}"
        ) from None
    if missing := missing_files(folder):
        raise SettingError(
            "model",
            f"'hf:{name}': the repository lacks {', '.join(missing)}; choose a CLIP or SigLIP model that "
            "transformers loads",
        )
    return folder


def _remedy(repository: str) -> str:
    return (
        f"on a machine with a network, run hf download {repository} --include '*.json' '*.txt' '*.model' "
        "'model*.safetensors' --local-dir FOLDER, copy FOLDER to this machine and set model to hf:FOLDER"
    )
