"""Which wheels an image lacks."""

import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from offline.bundle import IMAGE
from offline.wheels import add_missing_wheels, needed_versions, pack_installed, read_image, this_environment


def write_wheel(folder: Path, name: str, *requires: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        "Version: 1.0",
        *(f"Requires-Dist: {one}" for one in requires),
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join([*metadata, ""]))
    return path


def test_requirements_are_followed_as_far_as_the_image_does_not_satisfy_them(tmp_path: Path) -> None:
    depends = {
        "old": ["deeper>=1"],
        "absent": ["has>=1", "only_on_windows; sys_platform == 'win32'", "deeper", "extra_one; extra == 'fast'"],
        "deeper": [],
    }

    def fetch(requirement: Requirement, folder: Path) -> Path:
        return write_wheel(folder, requirement.name, *depends[requirement.name])

    own = write_wheel(tmp_path, "own", "has>=1.2", "old>=2", "absent", "newer>=9; python_version < '3.11'")
    image = {"python": "3.11.4", "has": "1.3", "old": "1.9"}
    wheels = add_missing_wheels(own, tmp_path, image, fetch)
    assert [path.name.partition("-")[0] for path in wheels] == ["own", "old", "absent", "deeper"]


def test_an_installed_package_becomes_its_wheel_again(tmp_path: Path) -> None:
    wheel = pack_installed(Requirement("pydicom>=3"), tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read(next(name for name in names if name.endswith("/RECORD"))).decode()
    assert "pydicom/dataset.py" in names and not any(name.endswith((".pyc", "INSTALLER")) for name in names)
    assert {line.partition(",")[0] for line in record.splitlines()} == set(names)
    with pytest.raises(ValueError, match="is not installed here"):
        pack_installed(Requirement("no-such-package"), tmp_path)


def test_the_images_list_is_read_and_a_wrong_line_is_refused(tmp_path: Path) -> None:
    image = read_image(IMAGE)
    assert {"python", "torch", "numpy"} <= image.keys() and "open-clip-torch" not in image
    here = this_environment(["torch", "no-such-package"])
    assert "torch" in here and "numpy" not in here and "no-such-package" not in here
    wrong = tmp_path / "image.txt"
    wrong.write_text("python==3.11.2\ntorch==2.6.0+cu124 # with CUDA\nPy_Thing==1\n")
    assert read_image(wrong) == {"python": "3.11.2", "torch": "2.6.0", "py-thing": "1"}
    wrong.write_text("python==3.11.2\ntorch>=2\n")
    with pytest.raises(ValueError, match=r"image\.txt, line 2: 'torch>=2'"):
        read_image(wrong)
    wrong.write_text("torch==2\n")
    with pytest.raises(ValueError, match="says no python"):
        read_image(wrong)


def test_of_the_chosen_versions_those_are_needed_that_the_image_does_not_have() -> None:
    chosen = "numpy==1.26.4\nfsspec==2025.3.0\nopen-clip-torch==3.3.0\ntorch==2.6.0 ; python_version < '3'\n"
    image = {"python": "3.11.13", "numpy": "1.26.4", "fsspec": "2025.3.2", "torch": "2.6.0"}
    assert needed_versions(chosen, image) == ["fsspec==2025.3.0", "open-clip-torch==3.3.0"]
