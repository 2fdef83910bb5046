"""DICOM files and the competition's tables -> PNG images, dataset.json and train_dataset.csv.

    python prepare_data.py --root data/lumbarspine
    python prepare_data.py --root data/lumbarspine --split test --workers 8

Reads <root>/dataset, writes <root>/train/processed_data and <root>/test/processed_data. Sites are
placed by the readers' marks; where nobody marked them, by an atlas that is learned from the marked
train studies and kept beside them. A second run on the same input does nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.commands import SettingsParser, run_command, settings_of, usable_cores
from data_prep.layout import DataRoot, Split, data_root

if TYPE_CHECKING:
    from data_prep.atlas import Atlas
    from data_prep.cohorts import Cohort
    from data_prep.convert import Summary


def main() -> None:
    settings = settings_of(read_settings().parse_args())
    for name, least in {"workers": 1, "folds": 2, "max_pixels": 1, "seed": 0}.items():
        if settings[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} {settings[name]}: at least {least}")
    root = data_root(settings["root"])

    from data_prep.cohorts import split_cohort

    # All tables and folders are read before the first image is, so that wrong input is told at once.
    cohorts = {split: split_cohort(root, split) for split in splits_to_prepare(root, settings["split"])}
    summaries = [prepare(root, split, cohort, settings) for split, cohort in cohorts.items()]
    if not any(summary.slices for summary in summaries):
        raise ValueError(f"{root.dataset}: no study of it has a readable image; faults.csv says what is wrong")


def read_settings() -> SettingsParser:
    parser = SettingsParser("prepare_data.py", __doc__)
    parser.add_argument("--root", type=str | None, default=None, help="folder that holds dataset/ (else $LUMBAR_ROOT)")
    parser.add_argument("--split", choices=["train", "test", "both"], default="both", help="which studies to prepare")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes that convert studies")
    parser.add_argument("--folds", type=int, default=5, help="parts that the train studies are divided into")
    parser.add_argument("--seed", type=int, default=0, help="of the division into folds")
    parser.add_argument("--max-pixels", type=int, default=4096 * 4096, help="larger images are refused undecoded")
    return parser


def splits_to_prepare(root: DataRoot, wanted: str) -> list[Split]:
    """The splits asked for; with "both", those that are there. Raises ValueError where there is nothing to read."""
    if not root.dataset.is_dir():
        raise ValueError(f"{root.dataset}: no such folder; the competition's tables and images should lie there")
    if wanted != "both":
        return [wanted]  # type: ignore[list-item]
    splits: tuple[Split, ...] = ("train", "test")
    present = [split for split in splits if root.images(split).is_dir()]
    if not present:
        raise ValueError(f"{root.dataset}: holds neither train_images nor test_images")
    for split in splits:
        if split not in present:
            print(f"{split}: {root.images(split)} is not there, so this split is left out")
    return present


def prepare(root: DataRoot, split: Split, cohort: "Cohort", settings: dict[str, Any]) -> "Summary":
    """Convert one split, or find it converted, and say what came of it."""
    from data_prep.convert import convert_cohort, input_key, learn_from, summary_if_current
    from prompts.render import caption

    processed = root.processed(split)
    noted = {name: settings[name] for name in ("folds", "seed", "max_pixels")}
    work: dict[str, int] = {"workers": settings["workers"], "max_pixels": settings["max_pixels"]}
    atlas = learned_atlas(root) if split == "test" else None
    key = input_key(cohort, noted, atlas, caption)
    summary = summary_if_current(processed, key)
    if summary is None:
        if split == "train":
            atlas = learn_from(cohort, seed=settings["seed"], **work)
        if atlas is None:
            print(f"{split}: no atlas, so sites that nobody marked have no regions")
        summary = convert_cohort(
            cohort,
            processed,
            atlas=atlas,
            caption=caption,
            folds=settings["folds"],
            seed=settings["seed"],
            key=key,
            settings=noted,
            **work,
        )
    report(split, processed, summary)
    return summary


def learned_atlas(root: DataRoot) -> "Atlas | None":
    """The atlas that the train split left, if it is there."""
    from data_prep.atlas import load_atlas

    path = root.processed("train") / "atlas.json"
    return load_atlas(path) if path.is_file() else None


def report(split: Split, processed: Path, summary: "Summary") -> None:
    state = "is up to date" if summary.up_to_date else "written"
    print(f"{split}: {summary.studies} studies, {summary.slices} slices, {summary.pairs} pairs; {processed} {state}")
    for kind, count in sorted(summary.faults.items(), key=lambda entry: -entry[1]):
        print(f"{split}: {count:6d} {kind}")
    if summary.faults:
        print(f"{split}: each fault is a row of {processed / 'faults.csv'}")


if __name__ == "__main__":
    run_command("prepare_data.py", main)
