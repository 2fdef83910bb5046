"""A faulty copy of a phantom cohort, with all the faults that real data sets are known to have."""

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

SECRETS = ("Secret^Name", "19700102", "Secret House")
"""Personal data of the headers, which no output may contain."""


@dataclass
class FaultyCohort:
    """A faulty cohort and the faults that a conversion should find.

    Attributes:
        root: The data root.
        outside: A folder outside the root, the target of links.
        littered: The training study with additional files and two misplaced series.
        damaged: The training study with damaged files.
        untouched: The training study without faults.
        lost: Series whose images differ from those of the clean cohort.
        repaired: Paths that are faulty, but are read nevertheless.
        expected: Kind and path of every fault.
    """

    root: Path
    outside: Path
    littered: int
    damaged: int
    untouched: int
    lost: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    expected: list[tuple[str, str]] = field(default_factory=list)

    def expect(self, kind: str, path: str) -> None:
        """Add an expected fault."""
        self.expected.append((kind, path))


def make_faulty(clean: Path, root: Path, outside: Path) -> FaultyCohort:
    """Make a faulty copy of the cohort at `clean`, which has three training studies and one test study.

    The first training study gets additional files, and two of its series are moved to wrong folders. Files of the
    second are damaged. The third is not changed. `outside` is made as a target of links.
    """
    shutil.copytree(clean / "dataset", root / "dataset")
    images = root / "dataset" / "train_images"
    littered, damaged, untouched = sorted(int(path.name) for path in images.iterdir())
    cohort = FaultyCohort(root, outside, littered, damaged, untouched)
    _name_patients(images / str(littered), images / str(damaged))
    _misplace(cohort, images)
    _litter(cohort, images)
    _damage(cohort, images)
    _spoil_folders(cohort, images)
    _spoil_tables(cohort, root / "dataset")
    return cohort


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def series_of(study: Path) -> list[Path]:
    return sorted(path for path in study.iterdir() if path.is_dir() and path.name.isdigit())


def _edit(path: Path, change: Callable[..., None], to: Path | None = None) -> None:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(to or path, enforce_file_format=False)


def _name_patients(*studies: Path) -> None:
    def name(dataset) -> None:  # type: ignore[no-untyped-def]
        dataset.PatientName, dataset.PatientBirthDate, dataset.InstitutionName = SECRETS

    for study in studies:
        for path in study.rglob("*.dcm"):
            _edit(path, name)


def _misplace(cohort: FaultyCohort, images: Path) -> None:
    """Move one series a folder level up and one a level down: the table has their studies, so no image is lost."""
    high, low = series_of(images / str(cohort.littered))[:2]
    shutil.move(high, images / high.name)
    lower = images / str(cohort.littered) / "unpacked" / low.name
    lower.parent.mkdir()
    shutil.move(low, lower)
    cohort.expect("bad_id", f"{cohort.littered}/unpacked")
    cohort.repaired += [high.name, f"{cohort.littered}/unpacked/{low.name}"]
    for path in cohort.repaired:
        cohort.expect("misplaced", path)


def _litter(cohort: FaultyCohort, images: Path) -> None:
    """Add files to a correct series that must not affect its images."""
    series = series_of(images / str(cohort.littered))[0]
    where = f"{cohort.littered}/{series.name}"
    first = min(series.glob("*.dcm"), key=lambda path: int(path.stem))
    secret = cohort.outside / "secret.dcm"
    cohort.outside.mkdir()
    shutil.copy(first, secret)

    def litter(kind: str, name: str, content: bytes | None = None) -> Path:
        cohort.expect(kind, f"{where}/{name}")
        if content is not None:
            (series / name).write_bytes(content)
        return series / name

    litter("not_dicom", "9000001.dcm", b"")
    litter("not_dicom", "9000002.dcm", b"a letter about Secret^Name\n" * 20)
    litter("not_dicom", ".DS_Store", b"\0\0\0\1Bud1")
    litter("not_dicom", "DICOMDIR", b"\0" * 128 + b"DICM")
    litter("truncated", "9000003.dcm", first.read_bytes()[:-5000])
    litter("link_outside", "9000004.dcm").symlink_to(secret)
    litter("link_outside", "9000005").symlink_to(cohort.outside)
    litter("not_dicom", "9000006.dcm").symlink_to(series / "nowhere.dcm")
    litter("misplaced", "inner").mkdir()
    shutil.copy(first, litter("duplicate_instance", "copy.dcm"))
    os.mkfifo(litter("not_dicom", "9000008.dcm"))

    def no_pixels(dataset) -> None:  # type: ignore[no-untyped-def]
        del dataset.PixelData
        dataset.InstanceNumber = 9000009

    _edit(first, no_pixels, litter("no_pixels", "9000009.dcm"))

    def bomb(dataset) -> None:  # type: ignore[no-untyped-def]
        dataset.Rows = dataset.Columns = 65535
        dataset.InstanceNumber = 9000010

    _edit(first, bomb, litter("too_many_pixels", "9000010.dcm"))

    def colour(dataset) -> None:  # type: ignore[no-untyped-def]
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "RGB", 3
        dataset.InstanceNumber = 9000011

    _edit(first, colour, litter("not_grey", "9000011.dcm"))


def _damage(cohort: FaultyCohort, images: Path) -> None:
    """Damage three files of one series in different ways, and all files of another series."""
    damaged, dead = series_of(images / str(cohort.damaged))[:2]
    files = sorted(damaged.glob("*.dcm"), key=lambda path: int(path.stem))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:200])
    files[2].write_bytes(files[2].read_bytes()[:-3000])
    for path, kind in zip(files, ("not_dicom", "no_pixels", "truncated"), strict=False):
        cohort.expect(kind, f"{cohort.damaged}/{damaged.name}/{path.name}")
    cohort.lost.append(damaged.name)
    for path in dead.glob("*.dcm"):
        path.write_bytes(b"")
        cohort.expect("not_dicom", f"{cohort.damaged}/{dead.name}/{path.name}")
    cohort.expect("empty_folder", f"{cohort.damaged}/{dead.name}")
    cohort.lost.append(dead.name)
    lost = {(damaged.name, path.stem) for path in files[:3]} | {(dead.name, path.stem) for path in dead.glob("*.dcm")}
    for row in rows(images.parent / "train_label_coordinates.csv"):
        if (row["series_id"], row["instance_number"]) in lost:
            where = f"{cohort.damaged}/{row['series_id']}/{row['instance_number']}"
            cohort.expect("mark_without_image", where)


def _spoil_folders(cohort: FaultyCohort, images: Path) -> None:
    """Add folders with invalid names, links out of the root, files instead of folders, and a study without a row."""
    for name in ("evil..", "1e5", "-7", "007", "\u0661\u0662", "bad\nname"):
        shutil.copytree(cohort.outside, images / name / "1")
        cohort.expect("bad_id", name.replace("\n", "\\n"))
    (images / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    cohort.expect("not_dicom", ".DS_Store")
    (images / "5.dcm").write_bytes(b"DICM")
    cohort.expect("misplaced", "5.dcm")
    (images / "777").symlink_to(cohort.outside.parent)
    cohort.expect("link_outside", "777")
    (images / "888").mkdir()
    cohort.expect("not_in_table", "888")
    cohort.expect("empty_folder", "888")
    shutil.copytree(series_of(images / str(cohort.untouched))[0], images / "999" / "1")
    cohort.expect("not_in_table", "999")
    cohort.expect("view_guessed", "999/1")
    cohort.expect("split_study", "999")  # it is a copy
    cohort.expect("split_study", str(cohort.untouched))


def _spoil_tables(cohort: FaultyCohort, dataset: Path) -> None:
    """Append faulty rows to the tables, so that correct rows keep their line; give one table a BOM and CRLF."""
    study = cohort.untouched
    series = series_of(dataset / "train_images" / str(study))[0].name
    train, described, marked = (
        dataset / name for name in ("train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv")
    )

    def append(path: Path, row: str, *kinds: str) -> None:
        path.write_text(path.read_text(encoding="utf-8") + row + "\n", encoding="utf-8")
        line = len(path.read_text(encoding="utf-8").split("\n")) - 1
        for kind in kinds:
            cohort.expect(kind, f"{path.name}:{line}")

    append(train, "../../evil" + ",Severe" * 25, "bad_id")
    append(train, "/etc/passwd" + ",Severe" * 25, "bad_id")
    append(train, "4242\0" + ",Severe" * 25, "bad_id")
    append(train, "4242,Mild" + "," * 24, "bad_label")
    cohort.expect("missing_study", "4242")
    append(train, train.read_text().splitlines()[1], "duplicate_row")
    append(described, f"{study},424242,Sagittal T1")
    cohort.expect("missing_series", f"{study}/424242")
    append(described, f"{study},{series},Sagittal T9", "bad_label")
    append(described, f"{study},1,Sagittal T2,STIR", "bad_row")
    append(described, "4242,7,Axial T2")
    append(described, "4242,7,Sagittal T1", "contradiction")
    point = f"{study},{series},1,Spinal Canal Stenosis,L1/L2"
    append(marked, f"{point},nan,3", "bad_mark")
    append(marked, f"{study},../../evil,1,Spinal Canal Stenosis,L1/L2,3,3", "bad_id")
    append(marked, f"{study},{series},1,Left Elbow,L1/L2,3,3", "bad_label")
    append(marked, marked.read_text().splitlines()[1], "duplicate_row")
    append(marked, f"{study},424242,1,Spinal Canal Stenosis,L1/L2,3,3")
    cohort.expect("mark_without_image", f"{study}/424242/1")
    text = train.read_text(encoding="utf-8").replace("study_id", " Study ID ", 1).replace("Severe", " severe ")
    train.write_bytes(("\ufeff" + text.replace("\n", "\r\n") + "\r\n,,,\r\n").encode())
