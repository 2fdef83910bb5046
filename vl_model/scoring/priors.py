"""Column priors: the severity frequencies of each of the 25 sites in the training studies.

A site without an image has the prior of its column. With the metric's weights, the prior is the best constant
answer, which is the baseline of the report.
"""

from collections.abc import Sequence

import numpy as np

from data_prep.sites import SITES, Severity
from vl_model.data.site_table import CONDITION_OF_SITE, CONDITIONS, Floats, SiteTable


class ColumnPrior:
    """The best constant probabilities of each of the 25 columns under a weighted log loss.

    A loss with the weight w_c for class c is lowest, among constants, at p_c proportional to w_c n_c (n_c: rows of
    that class). The counts of a column are shrunk by `pseudo_count` rows towards those of its condition, and these
    towards the uniform distribution. A column that is never severe in a small training set would otherwise have a
    probability of zero for severe.

    Learned attribute: `prob_SC_` (25, 3), rows in the order of `SITES`.
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
        weighted_SC = count_SC * np.asarray(self.weights)
        self.prob_SC_: Floats = weighted_SC / weighted_SC.sum(axis=1, keepdims=True)
        return self

    def predict_proba(self, table: SiteTable) -> Floats:
        """Return (N, 3): the constant of each row's column."""
        return self.prob_SC_[table.site_N]
