"""What is known of a site without looking: the severities of its column in the training studies.

It is what a row without any image gets, and, weighted as the metric weighs, the constant that models have to beat.
"""

from collections.abc import Sequence

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import CONDITION_OF_SITE, CONDITIONS, Floats, SiteTable


class ColumnPrior:
    """The best constant triple of each of the 25 columns under a weighted log loss.

    A loss that weighs class c by w_c is least, among constants, at p_c proportional to w_c n_c (n_c: rows of that
    class). Counts are shrunk a little, by `pseudo_count` rows, towards the column's condition, and those towards
    evenness: a column of a small training set that never was severe would otherwise promise that it never will be.

    Learned: `prob_SC_` (25, 3), rows in the order of `SITES`.
    """

    def __init__(self, weights: Sequence[float] = (1.0, 1.0, 1.0), pseudo_count: float = 1.0) -> None:
        self.weights = tuple(weights)
        self.pseudo_count = pseudo_count

    def fit(self, table: SiteTable) -> "ColumnPrior":
        """Count the labelled rows of `table`."""
        count_SC = np.zeros((len(SITES), len(Severity)))
        labelled = table.take(table.labelled_N)
        np.add.at(count_SC, (labelled.site_N, labelled.severity_N), 1.0)
        for condition in range(len(CONDITIONS)):
            columns = np.equal(CONDITION_OF_SITE, condition)
            pooled_C = count_SC[columns].sum(axis=0) + self.pseudo_count / len(Severity)
            count_SC[columns] += self.pseudo_count * pooled_C / pooled_C.sum()
        weighed_SC = count_SC * np.asarray(self.weights)
        self.prob_SC_: Floats = weighed_SC / weighed_SC.sum(axis=1, keepdims=True)
        return self

    def predict_proba(self, table: SiteTable) -> Floats:
        """(N, 3): the constant of each row's column."""
        return self.prob_SC_[table.site_N]
