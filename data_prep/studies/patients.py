"""Find studies of one patient, by the identifiers in their headers: they must not be divided between folds.

A model that is trained on one of two examinations of a patient knows the other. Identifiers are compared, and written
nowhere; not even a digest of a PatientID is kept, because a short one can be found from it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from data_prep.dicom.identity import Identity, read_identity
from data_prep.folders import list_folder
from data_prep.studies.studies import StudyFolder

#: An identifier that more studies have than a patient has examinations is a constant, as of programs that anonymise.
MOST_EXAMINATIONS = 10


def studies_of_one_patient(folders: Iterable[StudyFolder]) -> list[tuple[int, ...]]:
    """Return the sets of two or more studies that are of one patient, sorted, by one file of each study.

    Those with one PatientID or one StudyInstanceUID are of one patient, unless it is a constant: of more than half of
    the studies, if there are more than two, or of more than `MOST_EXAMINATIONS`.
    """
    identities = {folder.study_id: _identity(folder) for folder in folders}
    patients = {study_id: one.plain_patient for study_id, one in identities.items()}
    uids = {study_id: one.study_uid for study_id, one in identities.items()}
    return _joined([*_sharing(patients), *_sharing(uids)])


def _identity(folder: StudyFolder) -> Identity:
    """Return the identity of the first image that names a patient, of the first files of the series."""
    found = Identity()
    for series_id, path in sorted(folder.series.items()):
        files = folder.files.get(series_id) or list_folder(path, folder.root).files
        identity = next((one for file in files if (one := read_identity(file))), None)
        if identity is not None and identity.patient:
            return identity
        found = identity or found
    return found


def _sharing(identifier_of: Mapping[int, str]) -> list[list[int]]:
    """Return the studies that share an identifier, for each identifier that is not missing and not a constant."""
    studies_of = defaultdict(list)
    for study_id, identifier in identifier_of.items():
        studies_of[identifier].append(study_id)
    most = min(MOST_EXAMINATIONS, max(2, len(identifier_of) // 2))
    return [own for identifier, own in studies_of.items() if identifier and 1 < len(own) <= most]


def _joined(groups: Collection[Collection[int]]) -> list[tuple[int, ...]]:
    """Join groups that have a study in common."""
    joined: list[set[int]] = []
    for group in groups:
        touching = [one for one in joined if not one.isdisjoint(group)]
        joined = [one for one in joined if one.isdisjoint(group)] + [set(group).union(*touching)]
    return sorted(tuple(sorted(one)) for one in joined)
