"""Where the files of a transformers model are: in a folder, in the hub's cache, or on the hub, in this order.

An offline machine is a normal machine, and one with a network is not asked for what it holds already.
"""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from workspace.layout import home_expanded

#: What a model is made of: of each line, one alternative must be there, every file of it.
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

#: What is copied along with fine-tuned weights: how images and texts become their inputs.
COMPANIONS = (
    *("preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("spiece.model", "tokenizer.model", "vocab.json", "merges.txt"),
)

_SMALL = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def find_model(name: str) -> Path:
    """The folder with the files of ``hf:name``. Raises ValueError with one line: which are missing, and the remedy."""
    folder = home_expanded(name, "model")
    if folder.is_dir():
        if lacking := missing_files(folder):
            raise ValueError(f"--model hf:{name}: no file {' nor '.join(lacking)} there; {_remedy('the repository')}")
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"--model hf:{name}: no such folder, nor a name such as hf:openai/clip-vit-base-patch16")
    return _cached(name) or _downloaded(name)


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a model needs and `folder` lacks, of alternatives the first."""
    return [
        alternatives[0][0]
        for alternatives in NEEDED
        if not any(all((folder / name).is_file() for name in names) for names in alternatives)
    ]


def read_companions(folder: Path) -> dict[str, bytes]:
    """Contents of the processor's and the tokenizer's files, by name."""
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
        for pattern in _WEIGHTS:  # the second only where the first is not
            if "model.safetensors" in missing_files(folder):
                snapshot_download(name, allow_patterns=[pattern])
    except GatedRepoError:
        raise ValueError(
            f"--model hf:{name}: its licence has to be accepted first, on its page on the hub; then hf auth login"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ValueError(f"--model hf:{name}: the hub has no model of this name that you may read") from None
    except (HfHubHTTPError, OSError, ValueError, RuntimeError):
        raise ValueError(
            f"--model hf:{name}: not on this machine, and the hub cannot be reached; {_remedy(name)}"
        ) from None
    if lacking := missing_files(folder):
        raise ValueError(f"--model hf:{name}: the hub's copy has no {' nor '.join(lacking)}; hf: needs it")
    return folder


def _remedy(repository: str) -> str:
    return (
        f"on a machine with a network: hf download {repository} --include '*.json' '*.txt' '*.model' "
        "'model*.safetensors' --local-dir FOLDER, copy FOLDER here and give --model hf:FOLDER"
    )
