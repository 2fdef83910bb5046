"""JSON files that one command leaves for the next: read as an object of the right version, or refused in one line."""

import json
import math
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


def plain(value: Any) -> Any:
    """Values as JSON has them: no NumPy, and null for what is not a finite number."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars, without its import
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
