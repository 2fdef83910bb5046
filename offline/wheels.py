"""The wheels that an image lacks: which ones, and from where.

They are downloaded at versions that fit the image (`download_missing`), or made of the packages that are installed here
(`add_missing_wheels` with `pack_installed`), for an image with the same versions.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from email.parser import HeaderParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from workspace.setting_error import SettingError

#: Tags of the wheels that are downloaded.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: They are built for the image's CUDA and for each other.
NEVER_REPLACED = ("torch", "torchvision")

Image = Mapping[str, str]
"""Package -> version of what the target has; "python" is one of them."""

FetchWheel = Callable[[Requirement, Path], Path]
"""Puts the wheel that satisfies a requirement into a folder, and returns its path."""


def read_image(path: Path) -> dict[str, str]:
    """Read a list of packages, NAME==VERSION one per line; a local label of a version (+cu124) is left out.

    Raises ValueError, which quotes the line, for any other line.
    """
    image: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].strip()
        name, separator, version = words.partition("==")
        if words and (not separator or not name or not version or " " in words):
            raise ValueError(f"{path}, line {number}: {line!r}: expected NAME==VERSION")
        if words:
            image[canonicalize_name(name)] = version.partition("+")[0]
    if "python" not in image:
        raise ValueError(f"{path}: says no python==VERSION")
    return image


def this_environment(names: Sequence[str]) -> dict[str, str]:
    """Return those of the named packages that are installed here, and all that they require, at their versions."""
    image = {"python": ".".join(map(str, sys.version_info[:3]))}
    waiting = deque(names)
    while waiting:
        name = canonicalize_name(waiting.popleft())
        found = None if name in image else _installed(name)
        if found is not None:
            image[name] = found.version
            waiting += [one.name for one in _requirements(found.requires or (), set(), image["python"])]
    return image


def add_missing_wheels(first: Path, folder: Path, image: Image, fetch: FetchWheel) -> list[Path]:
    """Put the wheels that the wheel `first` requires and that `image` lacks into `folder`; return all, `first` too.

    A wheel is needed if the image has no version of a package that satisfies the requirement. Requirements are followed
    from wheel to wheel. Raises ValueError or OSError if a wheel cannot be had.
    """
    wheels: dict[str, Path] = {"": first}
    waiting = deque([(first, frozenset[str]())])
    while waiting:
        wheel, extras = waiting.popleft()
        for requirement in _requirements(_requires(wheel), extras, image["python"]):
            name = canonicalize_name(requirement.name)
            has = image.get(name)
            if name in wheels or (has is not None and requirement.specifier.contains(has, prereleases=True)):
                continue
            wheels[name] = fetch(requirement, folder)
            waiting.append((wheels[name], frozenset(requirement.extras)))
    return list(wheels.values())


def download_missing(first: Path, folder: Path, image: Image, constraints: Path) -> list[Path]:
    """Download the wheels that the wheel `first` requires and that `image` lacks; return all, `first` too.

    uv chooses the versions: those of the image wherever they fit together, else those of `constraints`, else the lowest
    that will do, because these ask the least of the image's other packages. Raises ValueError if no choice fits, or if
    a wheel cannot be downloaded.
    """
    with TemporaryDirectory() as work:
        needed = needed_versions(_choose_versions(first, Path(work), image, constraints), image)
    python = ".".join(image["python"].split(".")[:2])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    target = [f"--python-version={python}", "--implementation=cp", *(f"--platform={name}" for name in PLATFORMS)]
    _run([*pip, "--only-binary=:all:", *target, f"--dest={folder}", *needed], "the wheels cannot be downloaded")
    return sorted(folder.glob("*.whl"))


def needed_versions(chosen: str, image: Image) -> list[str]:
    """Return those NAME==VERSION of uv's choice, one per line, that the image does not have."""
    lines = [line.partition(";")[0].strip() for line in chosen.splitlines() if "==" in line]
    pairs = [line.split("==") for line in lines]
    return [f"{name}=={version}" for name, version in pairs if image.get(canonicalize_name(name)) != version]


def _choose_versions(first: Path, work: Path, image: Image, constraints: Path) -> str:
    """Return uv's choice of all packages. What its output file holds before are preferences, not conditions."""
    preferred = {name: version for name, version in image.items() if name != "python"}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("==")
        if separator:
            preferred.setdefault(canonicalize_name(name), version)
    requirements, overrides, chosen = work / "requirements.in", work / "overrides.txt", work / "chosen.txt"
    requirements.write_text("\n".join(line for line in _requires(first) if "extra ==" not in line), encoding="utf-8")
    overrides.write_text("".join(f'{name} ; python_version < "3"\n' for name in NEVER_REPLACED), encoding="utf-8")
    chosen.write_text("".join(f"{name}=={version}\n" for name, version in preferred.items()), encoding="utf-8")
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise ValueError("uv is needed to choose the versions of the wheels; make setup installs it")
    python = ".".join(image["python"].split(".")[:2])
    words = [uv, "pip", "compile", str(requirements), "--override", str(overrides), "--resolution", "lowest-direct"]
    words += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    _run([*words, "--no-annotate", "--no-header", "--quiet", "-o", str(chosen)], "no versions fit the image")
    return chosen.read_text(encoding="utf-8")


def _run(words: Sequence[str], problem: str) -> None:
    """Run a program. Raises ValueError with the problem and the last line that it said if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"{problem} ({said[-1].strip()})")


def pack_installed(requirement: Requirement, folder: Path) -> Path:
    """Write a wheel of the installed version of a package, from the files that its installation recorded.

    Raises ValueError if the package is not installed, or not from a wheel.
    """
    found = _installed(requirement.name)
    if found is None:
        raise ValueError(f"{requirement.name}: is not installed here; install it, or download the wheels")
    tags = HeaderParser().parsestr(found.read_text("WHEEL") or "").get_all("Tag")
    if not tags:
        raise ValueError(f"{requirement.name}: was not installed from a wheel, so that none can be made of it")
    python, abi, _ = tags[0].split("-")
    platforms = ".".join(dict.fromkeys(tag.split("-")[2] for tag in tags if tag.startswith(f"{python}-{abi}-")))
    name = canonicalize_name(found.metadata["Name"]).replace("-", "_")
    wheel = folder / f"{name}-{found.version}-{python}-{abi}-{platforms}.whl"
    records, record = [], ""
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if file.name == "RECORD":
                record = file.as_posix()
            elif not _is_of_installer(file.parts) and path.is_file():
                data = path.read_bytes()
                archive.writestr(file.as_posix(), data)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                records.append(f"{file.as_posix()},sha256={digest},{len(data)}")
        archive.writestr(record, "\n".join([*records, f"{record},,", ""]))
    return wheel


def build_own_wheel(checkout: Path, folder: Path) -> Path:
    """Build the wheel of this project from a checkout, without network. Raises ValueError if that fails."""
    copy = folder / ".checkout"
    try:
        copy.mkdir()
        for path in (checkout / name for name in ("pyproject.toml", "README.md", "LICENSE")):
            shutil.copy(path, copy / path.name)
        for path in checkout.glob("*.py"):
            shutil.copy(path, copy / path.name)
        for init in checkout.glob("*/__init__.py"):
            shutil.copytree(init.parent, copy / init.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
        words = [*pip, "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(copy)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    if done.returncode:
        raise ValueError(f"{checkout}: its wheel cannot be built ({(done.stderr.strip().splitlines() or ['?'])[-1]})")
    [wheel] = folder.glob("lumbar_vl-*.whl")
    return wheel


def _is_of_installer(parts: tuple[str, ...]) -> bool:
    """Return whether the installer wrote a file: byte code, commands outside the packages, and notes of its own."""
    is_note = parts[-1] in ("INSTALLER", "REQUESTED", "direct_url.json") and parts[0].endswith(".dist-info")
    return is_note or ".." in parts or parts[-1].endswith(".pyc")


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _requires(wheel: Path) -> list[str]:
    """Return the requirements in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def _requirements(lines: Sequence[str], extras: frozenset[str] | set[str], python: str) -> list[Requirement]:
    """Return the requirements that hold for a Python version on Linux, with these extras."""
    short = ".".join(python.split(".")[:2])
    environment = {name: str(value) for name, value in default_environment().items()}
    environment |= {"python_version": short, "python_full_version": python}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    found = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise SettingError("image", f"a wheel requires {line!r}, which cannot be read ({error})") from None
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
            found.append(requirement)
    return found
