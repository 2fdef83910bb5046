"""Studies whose pixels are another's must not be held out while the other is trained on."""

from collections.abc import Collection

from data_prep.conversion.pairs import Dataset
from workspace.setting_error import SettingError

_NAMED = 3


def check_twins(dataset: Dataset, held_out_folds: Collection[int], setting: str, value: str) -> None:
    """Raise SettingError, for this setting and its value, if a held-out study has the pixels of a study to train on."""
    fold_of = dataset.fold_of
    divided = [
        sorted(pair, key=lambda study: fold_of[study] not in held_out_folds)
        for pair in dataset.twins
        if all(study in fold_of for study in pair) and len({fold_of[study] in held_out_folds for study in pair}) > 1
    ]
    if divided:
        pairs = ", ".join(f"{held_out} those of {trained}" for held_out, trained in divided[:_NAMED])
        more = ", ..." if len(divided) > _NAMED else ""
        raise SettingError(
            setting,
            f"{value}: {len(divided)} held-out stud{'ies have' if len(divided) > 1 else 'y has'} the pixels of a study "
            f"to train on (study {pairs}{more}; twin_study in faults.csv); remove one of the two from the tables and "
            "the images and prepare again, or hold out the folds of both",
        )
