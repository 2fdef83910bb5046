"""Which splits of a data root there are to prepare."""

from workspace.layout import SPLITS, DataRoot, Split

#: Tables that name test studies: each study needs an answer, even if there are no images at all.
TEST_TABLES = ("test_series_descriptions.csv", "sample_submission.csv")


def splits_to_prepare(root: DataRoot, requested: str) -> list[Split]:
    """Return the requested splits; for "both", those that exist, and print which do not.

    Raises ValueError if there is nothing to read.
    """
    if not root.dataset.is_dir():
        raise ValueError(f"{root.dataset}: no such folder; it should contain the competition's tables and images")
    if requested != "both":
        return [split for split in SPLITS if split == requested]
    present = [split for split in SPLITS if root.images(split).is_dir()]
    if not present:
        raise ValueError(f"{root.dataset}: contains neither train_images nor test_images")
    for split in SPLITS:
        if split in present:
            continue
        if split == "test" and not root.images(split).exists() and _names_test_studies(root):
            print(f"test: {root.images(split)} does not exist; the studies that the tables name have no images")
            present.append(split)
        else:
            print(f"{split}: {root.images(split)} does not exist, so this split is skipped")
    return present


def _names_test_studies(root: DataRoot) -> bool:
    return any(root.table(name).is_file() for name in TEST_TABLES)
