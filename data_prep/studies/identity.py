"""Decide whose images a study folder of the competition's layout holds, if their headers disagree.

The tables say which study a folder is, and all its images should have one StudyInstanceUID and one PatientID. If they
do not, those of another examination or patient must answer for nobody. The identifier to believe is the study's id, as
in the competition's files; else the one of most series. If as many series have another one, none can be believed. For
a study that the tables name, an identifier that is the id of another study of the image folder is never believed.
StudyInstanceUIDs that differ from file to file say nothing and are ignored; so are those that differ from series to
series if all images name one patient.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from data_prep.dicom.identity import Identity, read_identity
from data_prep.faults import Fault, FaultKind
from data_prep.folders import is_id, list_folder
from data_prep.studies.evidence import differ_per_file, majority


class StudyIdentity:
    """Holds the images of one study to one StudyInstanceUID and one PatientID.

    All files of the study are looked at, but only if two images disagree or one names another study.
    """

    def __init__(self, study_id: int, root: Path, series: Collection[Path], is_named: bool) -> None:
        """Args: the study's id; the image folder; the study's series folders; whether the tables name the study."""
        self._root, self._folders = root, series
        self._identities: list[list[Identity]] | None = None
        self.is_ignored = False
        """Whether StudyInstanceUIDs that say nothing were ignored."""
        self._checks = (
            _Check(study_id, root, is_named, lambda identity: identity.study_uid),
            _Check(study_id, root, is_named, lambda identity: identity.patient),
        )

    def are_foreign(self, identities: Collection[Identity]) -> list[bool]:
        """Return for each image of a series whether it belongs to another examination or patient."""
        checks = [(check.value, check.foreign(identities, self._read)) for check in self._checks]
        self.is_ignored = any(check.is_ignored for check in self._checks)
        return [any(value(one) in foreign for value, foreign in checks) for one in identities]

    def foreign_series(self, identities: Mapping[int, Collection[Identity]]) -> set[int]:
        """Return the series, by id, that are wholly foreign now that all series have been seen."""
        return {series_id for series_id, found in identities.items() if found and all(self.are_foreign(found))}

    def _read(self) -> list[list[Identity]]:
        """Return the identities of all files, by series."""
        if self._identities is None:
            files = [list_folder(folder, self._root).files for folder in self._folders]
            self._identities = [[one for path in paths if (one := read_identity(path))] for paths in files]
        return self._identities


class _Check:
    """Compares one identifier of all images of a study."""

    def __init__(self, study_id: int, root: Path, is_named: bool, value: Callable[[Identity], str]) -> None:
        self.value, self._is_named = value, is_named
        self._own, self._root = str(study_id), root
        self._seen: set[str] = set()
        self._believed: set[str] | None = None
        self.is_ignored = False

    def foreign(self, identities: Collection[Identity], read: Callable[[], list[list[Identity]]]) -> set[str]:
        """Return which identifiers of these images are not the study's."""
        found = {self.value(one) for one in identities} - {""}
        self._seen |= found
        if len(self._seen) < 2 and not any(map(self._is_other_study, found)):
            return set()
        if self._believed is None:
            self._believed = self._decide(read())
        return found - self._believed

    def _decide(self, series: list[list[Identity]]) -> set[str]:
        """Return the identifiers to believe: the study's own and those that say nothing; or only the latter."""
        patients = {one.patient for images in series for one in images}
        series = [[one for one in images if self.value(one)] for images in series]
        of_series = [[self.value(one) for one in images] for images in series]
        silent = self._silent(series, of_series)
        telling = [values for values in of_series if values and not silent.issuperset(values)]
        if len(patients) == 1 and patients != {""} and _differ_per_series(telling):
            silent = silent.union(*telling)
            telling = []
        self.is_ignored = bool(silent)
        if any(self._own in values for values in telling):
            return {self._own, *silent}
        votes = Counter(value for values in telling if (value := majority(Counter(values))) is not None)
        best = majority(votes)
        return silent if best is None or self._is_other_study(best) else {best, *silent}

    def _silent(self, series: list[list[Identity]], of_series: list[list[str]]) -> set[str]:
        """Return the identifiers that differ from file to file, throughout the study or in one of its series."""
        everything = [value for values in of_series for value in values]
        is_named = any(map(self._is_other_study, everything)) or self._own in everything
        if is_named or any(one.frames > 1 for images in series for one in images):
            return set()
        if differ_per_file(everything):
            return set(everything)
        alone = [values for values in of_series if differ_per_file(values) and len(set(values)) == len(values)]
        return {value for values in alone for value in values}

    def _is_other_study(self, value: str) -> bool:
        """Return whether an identifier is the id of another study: of a folder beside this study's."""
        return self._is_named and is_id(value) and value != self._own and (self._root / value).is_dir()


def _differ_per_series(telling: list[list[str]]) -> bool:
    """Return whether each of several series has an identifier of its own."""
    return len(telling) > 1 and len({value for values in telling for value in values}) == len(telling) == sum(
        len(set(values)) for values in telling
    )


def split_study_faults(split: str, studies: Mapping[int, str]) -> list[Fault]:
    """Return a fault for each study whose StudyInstanceUID others have, unless all have the same, a constant.

    studies: a digest of the StudyInstanceUID of each study with images, empty if it has none.
    """
    together: dict[str, list[int]] = {}
    for study_id, identity in studies.items():
        together.setdefault(identity, []).append(study_id)
    if split == "new" or (len(together) == 1 and len(studies) > 2):  # new studies were told apart by it before
        return []
    faults = []
    for identity, study_ids in together.items():
        for study_id in study_ids if identity and len(study_ids) > 1 else ():
            others = ", ".join(str(other) for other in study_ids if other != study_id)
            message = f"its images have the StudyInstanceUID of {others[:100]} too: one examination, or a constant"
            faults.append(Fault(study_id, None, str(study_id), FaultKind.SPLIT_STUDY, "kept", message))
    return faults
