"""All labels of the train split, also those of sites that no image shows."""

from data_prep.conversion.pairs import Dataset
from data_prep.studies.tables import read_train_tables
from vl_model.data.site_table import SiteTable, full_table, site_table
from workspace.layout import DataRoot


def known_labels(root: DataRoot, dataset: Dataset) -> SiteTable:
    """Return all 25 sites of each study of the train split, with every severity that is known."""
    imaged = site_table((pair.study_id, pair.site, pair.severity) for pair in dataset.pairs)
    return with_unimaged_labels(root, dataset, full_table(sorted(dataset.fold_of), imaged))


def with_unimaged_labels(root: DataRoot, dataset: Dataset, table: SiteTable) -> SiteTable:
    """Return `table` with the labels of sites that no image shows: they count in the metric as all others do.

    dataset.json contains labels of imaged sites only. The others are read from train.csv if that is still the file
    that the data set was made from.
    """
    if not root.table("train.csv").is_file():
        return table
    tables = read_train_tables(root.dataset)
    if tables.hashes.get("train.csv") != dataset.metadata.get("hashes", {}).get("train.csv"):
        return table
    known = site_table(
        (study, site, grade) for study, grades in tables.severities.items() for site, grade in grades.items()
    )
    return full_table(table.study_ids, known)
