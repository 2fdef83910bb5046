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
    """Return the sets of two or more studies that are of one patient, sorted, by one file of each series.

    Those with one PatientID or one StudyInstanceUID are of one patient, unless it is a constant: of more than half of
    the studies, if there are more than two, or of more than `MOST_EXAMINATIONS`. A study with the series of several
    patients is of all of them: to join too many studies does no harm.
    """
    identities = {folder.study_id: _identities(folder) for folder in folders}
    patients = {study_id: {one.plain_patient for one in found} for study_id, found in identities.items()}
    uids = {study_id: {one.study_uid for one in found} for study_id, found in identities.items()}
    return _joined([*_sharing(patients), *_sharing(uids)])


def _identities(folder: StudyFolder) -> list[Identity]:
    """Return the identity of the first file of each series that has one."""
    found = []
    for series_id, path in folder.series.items():
        files = folder.files.get(series_id) or list_folder(path, folder.root).files
        identities = (read_identity(file) for file in files)
        found += [next((one for one in identities if one is not None and (one.patient or one.study_uid)), Identity())]
    return found


def _sharing(identifiers_of: Mapping[int, Collection[str]]) -> list[list[int]]:
    """Return the studies that share an identifier, for each identifier that is not missing and not a constant."""
    studies_of = defaultdict(list)
    for study_id, identifiers in identifiers_of.items():
        for identifier in identifiers:
            studies_of[identifier].append(study_id)
    most = min(MOST_EXAMINATIONS, max(2, len(identifiers_of) // 2))
    return [own for identifier, own in studies_of.items() if identifier and 1 < len(own) <= most]


def _joined(groups: Collection[Collection[int]]) -> list[tuple[int, ...]]:
    """Join groups that have a study in common."""
    joined: list[set[int]] = []
    for group in groups:
        touching = [one for one in joined if not one.isdisjoint(group)]
        joined = [one for one in joined if one.isdisjoint(group)] + [set(group).union(*touching)]
    return sorted(tuple(sorted(one)) for one in joined)
