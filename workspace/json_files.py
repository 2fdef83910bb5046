"""JSON files that one command writes for another: an object of the expected schema version, or an error of one line."""

import json
import math
from pathlib import Path
from typing import Any


def read_object(path: Path, maker: str, version: int | None = None) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: the file.
        maker: the command that writes the file, which the errors recommend.
        version: the ``schema_version`` that the object must have, if any.

    Raises:
        ValueError: if the file does not exist, cannot be read, or contains anything else.
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
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a JSON object; run {maker} again")
    if version is not None and content.get("schema_version") != version:
        found = content.get("schema_version")
        raise ValueError(f"{path}: schema version {found!r}, expected {version}; run {maker} again")
    return content


def plain(value: Any) -> Any:
    """Convert a value to the types of JSON: NumPy values to Python's, and numbers that are not finite to null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars, without importing NumPy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
