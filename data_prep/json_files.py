"""JSON files that one command leaves for the next: read as an object of the right version, or refused in one line."""

import json
from pathlib import Path
from typing import Any


def read_object(path: Path, maker: str, version: int | None = None) -> dict[str, Any]:
    """The JSON object in `path`, which `maker` writes; `version` is what its ``schema_version`` must be.

    Raises ValueError where there is no such file, or where it holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {maker} writes it") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {maker} writes it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); run {maker} again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, no JSON object; run {maker} again")
    if version is not None and content.get("schema_version") != version:
        found = content.get("schema_version")
        raise ValueError(f"{path}: schema version {found!r}, expected {version}; run {maker} again")
    return content
