"""DICOM files and the competition's tables -> PNG images, dataset.json and train_dataset.csv.

    python prepare_data.py --root data/lumbarspine --check
    python prepare_data.py --root data/lumbarspine
    python prepare_data.py --root data/lumbarspine --split test --workers 8
    python prepare_data.py --root /scratch/me/lumbarspine --dask-scheduler tcp://10.0.0.1:8786

Reads <root>/dataset, writes <root>/train/processed_data and <root>/test/processed_data. Sites are
placed by the readers' marks; where nobody marked them, by the newest locator of train_locator.py
(or --locator RUN); where there is none, or it is too unsure, by an atlas that is learned from the marked
train studies, or where nothing is marked by the one that ships. A second run on the same input does
nothing; after an interruption the same command goes on where it was. With --dask-scheduler the work is
done by a Dask cluster's workers, which must see the root under the same path (recipes/prepare_on_slurm.py
starts such a cluster). With --check everything is read, nothing is written, and what would be done is
told, with every fault. The exit status is 2 where no image of any split can be read; a test split is
written all the same, because each of its studies is owed an answer. A train split without a readable
image is left as it was, and the test split is placed by the atlas of an earlier one, if there is one.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace.cli import SettingsParser, run_command, settings_of, usable_cores
from workspace.layout import DataRoot, Split, data_root

if TYPE_CHECKING:
    from data_prep.conversion.executors import Pool
    from data_prep.conversion.merge import Summary
    from data_prep.placement.atlas import Atlas
    from data_prep.studies.cohorts import Cohort

#: Tables that name test studies: each is owed an answer, also where there are no images at all.
TEST_TABLES = ("test_series_descriptions.csv", "sample_submission.csv")
MOST_FOLDS = 1000


def main() -> None:
    settings = settings_of(read_settings().parse_args())
    for name, least in {"workers": 1, "folds": 2, "max_pixels": 1, "seed": 0}.items():
        if settings[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} {settings[name]}: at least {least}")
    if settings["folds"] > MOST_FOLDS:
        raise ValueError(f"--folds {settings['folds']}: at most {MOST_FOLDS}")
    root = data_root(settings["root"])

    from data_prep.studies.cohorts import split_cohort

    # All tables and folders are read before the first image is, so that wrong input is told at once.
    cohorts = {split: split_cohort(root, split) for split in splits_to_prepare(root, settings["split"])}
    usable: dict[Split, bool] = {}
    with pool_for(cohorts.values(), settings) as pool:
        for split, cohort in cohorts.items():
            usable[split] = (check if settings["check"] else prepare)(root, split, cohort, settings, pool)
    if not any(usable.values()):
        place = root.dataset if len(usable) > 1 else root.images(next(iter(usable)))
        raise ValueError(f"{place}: no study of it has a readable image; --check says of each file why")


def read_settings() -> SettingsParser:
    parser = SettingsParser("prepare_data.py", __doc__)
    parser.add_argument("--root", type=str | None, default=None, help="folder that holds dataset/ (else $LUMBAR_ROOT)")
    parser.add_argument("--split", choices=["train", "test", "both"], default="both", help="which studies to prepare")
    parser.add_argument("--check", action="store_true", help="read everything, write nothing, tell every fault")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes that convert studies")
    parser.add_argument(
        "--dask-scheduler", type=str | None, default=None, help="a Dask cluster's address, to work there"
    )
    parser.add_argument("--folds", type=int, default=5, help="parts that the train studies are divided into")
    parser.add_argument("--seed", type=int, default=0, help="of the division into folds")
    parser.add_argument("--locator", type=str | None, default=None, help="a locator's run, or none; else the newest")
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
        if split in present:
            continue
        if (
            split == "test"
            and not root.images(split).exists()
            and any(root.table(name).is_file() for name in TEST_TABLES)
        ):
            print(f"test: {root.images(split)} is not there; the studies that the tables name are without images")
            present.append(split)
        else:
            print(f"{split}: {root.images(split)} is not there, so this split is left out")
    return present


@contextmanager
def pool_for(cohorts: Iterable["Cohort"], settings: dict[str, Any]) -> Iterator["Pool"]:
    """Workers for the whole run: no more than there are studies. Of what passes with time it is said how to go on."""
    from data_prep.conversion.convert import DiskFull
    from data_prep.conversion.executors import open_pool

    studies = max(len(cohort.folders) for cohort in cohorts)
    going_on = "the same command goes on from here"
    with open_pool(max(1, min(settings["workers"], studies)), settings["dask_scheduler"]) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            raise KeyboardInterrupt(going_on) from None
        except BrokenPipeError:  # nobody reads what is printed: a ConnectionError, but not the cluster's
            raise
        except (DiskFull, ChildProcessError, ConnectionError) as error:
            raise OSError(f"{error}; {going_on}") from error


def check(root: DataRoot, split: Split, cohort: "Cohort", settings: dict[str, Any], pool: "Pool") -> bool:
    """Say what converting a split would do, and every fault; whether anything of it can be used.

    Of the train split also the marks that locators, which had not learned from their studies, disagree with.
    """
    from data_prep.conversion.dry_run import check_cohort, describe, fault_table
    from locator.files import find_locator
    from locator.suspects import MARKS, describe_suspect, read_suspects

    locator = find_locator(root, settings["locator"])
    placer = f"the locator {locator.parent.name!r}" if locator else "an atlas"
    findings = check_cohort(cohort, max_pixels=settings["max_pixels"], pool=pool)
    print(describe(cohort, findings, placer))
    if findings.faults:
        print(f"\n{fault_table(findings.faults)}\n")
    if split == "train":
        suspects, outdated = read_suspects(root, cohort.hashes.get(MARKS))
        for suspect in suspects:
            print(f"{split}: suspect: {describe_suspect(suspect)}")
        if outdated:
            print(f"{split}: {outdated} tables of suspects left out: {MARKS} has changed since; train locators again")
    return findings.slices > 0


def prepare(root: DataRoot, split: Split, cohort: "Cohort", settings: dict[str, Any], pool: "Pool") -> bool:
    """Convert one split, or find it converted, and say what came of it; whether anything of it could be used."""
    from data_prep.conversion.convert import (
        NothingReadable,
        convert_cohort,
        input_key,
        learn_from,
        read_inputs,
        summary_if_current,
    )
    from data_prep.placement.shipped_atlas import NOTICE
    from locator.files import find_locator, locator_fingerprint
    from locator.site_placer import make_placer
    from prompts.render import caption

    processed = root.processed(split)
    noted: dict[str, Any] = {name: settings[name] for name in ("folds", "seed", "max_pixels")}
    atlas = learned_atlas(root) if split == "test" else None
    locator = find_locator(root, settings["locator"])
    if locator is not None:
        noted["locator"] = {"run": locator.parent.name, "fingerprint": locator_fingerprint(locator)}
    inputs = read_inputs(cohort)
    key = input_key(cohort, inputs, noted, atlas, caption)
    summary = summary_if_current(processed, key)
    if summary is None:
        work: dict[str, Any] = {"inputs": inputs, "pool": pool, "max_pixels": settings["max_pixels"]}
        if split == "train":
            atlas = learn_from(cohort, seed=settings["seed"], processed=processed, **work)
        placer = make_placer(locator, atlas)
        if locator is None and atlas is None:
            print(f"{split}: {NOTICE}")
        try:
            summary = convert_cohort(
                cohort,
                processed,
                atlas=atlas,
                placer=placer,
                caption=caption,
                folds=settings["folds"],
                seed=settings["seed"],
                key=key,
                settings=noted,
                **work,
            )
        except NothingReadable as refusal:
            print(refusal)
            return False
    report(split, processed, summary)
    return summary.slices > 0


def learned_atlas(root: DataRoot) -> "Atlas | None":
    """The atlas that the train split left, if it is there."""
    from data_prep.placement.atlas import load_atlas

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
