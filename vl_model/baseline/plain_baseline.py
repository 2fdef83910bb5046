"""A plain baseline without any network: what a run has to beat for its training to have been worth it.

Each view of a site is described by the middle slice of its crop: histograms of oriented gradients and coarse grey
values of the square around the site. Principal components of these descriptors, learned from the training studies,
replace the embedding of the linear probe. The baseline is no head: it grades nothing, and no choice depends on it.

Legend: N sites, M sites that a view shows, T crops, F values of a descriptor, D features, V = 3 views.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from data_prep.sites import View
from vl_model.baseline.crop_descriptors import CELL_MM, GREY_MM, GREY_WEIGHT, WINDOW_MM, CropDescriptors
from vl_model.data.site_rows import SiteRow
from vl_model.data.site_table import Floats, Ints, SiteTable
from vl_model.evaluation.heads import LinearProbe

COMPONENTS = 128
#: Inverse penalties, for features of norm one.
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
VIEWS: tuple[View, ...] = tuple(View)
#: What the predictions depend on besides the data.
SETTINGS = {
    "window_mm": WINDOW_MM,
    "cell_mm": CELL_MM,
    "grey_mm": GREY_MM,
    "grey_weight": GREY_WEIGHT,
    "components": COMPONENTS,
    "strengths": list(STRENGTHS),
}


class PlainBaseline:
    """Principal components of each view's descriptors, then a multinomial logistic regression per condition.

    Features: the components of each view, zero for a view that does not show the site; whether each view shows it; and
    the level, which the regression (`LinearProbe`) adds. The side is none: crops of the right are mirrored. The penalty
    is chosen by cross-validation over the studies that it is fitted on. Of several tiles in a view only the one at the
    site is described.

    Learned attributes: `component_of_`, per view the fitted PCA, for views of at least two sites; `probe_`.
    """

    def fit(self, table: SiteTable, rows: Sequence[SiteRow], crops: CropDescriptors) -> "PlainBaseline":
        """Fit on the labelled sites of `table` (N), whose crops are those of `rows` (N).

        Raises ValueError if no site is labelled.
        """
        labelled = np.flatnonzero(table.labelled_N)
        table, rows = table.take(labelled), [rows[row] for row in labelled.tolist()]
        self.component_of_: dict[View, PCA] = {}
        parts = []
        for view in VIEWS:
            shown_M, descriptor_MF = describe_view(rows, crops, view)
            if len(shown_M) > 1:
                count = min(COMPONENTS, *descriptor_MF.shape)
                # Both ways are exact, and nothing in them is random; which one is quicker depends on the shape.
                solver = "covariance_eigh" if descriptor_MF.shape[0] > descriptor_MF.shape[1] else "full"
                with np.errstate(invalid="ignore"):  # the share of the variance, which equal pictures do not have
                    self.component_of_[view] = PCA(count, svd_solver=solver).fit(descriptor_MF)
            parts.append(self._view_features(view, len(rows), shown_M, descriptor_MF))
        self.probe_ = LinearProbe(STRENGTHS).fit(table, np.concatenate(parts, axis=1))
        return self

    def predict_log_proba(self, table: SiteTable, rows: Sequence[SiteRow], crops: CropDescriptors) -> Floats:
        """Return the natural logarithms of the probabilities (N, 3) of the sites of `table`, the sites of `rows`."""
        described = [(view, *describe_view(rows, crops, view)) for view in VIEWS]
        parts = [self._view_features(view, len(rows), shown_M, value_MF) for view, shown_M, value_MF in described]
        return self.probe_.predict_log_proba(table, np.concatenate(parts, axis=1))

    def _view_features(self, view: View, count: int, shown_M: Ints, descriptor_MF: NDArray[np.float32]) -> Floats:
        """Return the features of one view (N, components + 1); the last column says whether the view shows the site."""
        if view not in self.component_of_:
            return np.zeros((count, 0))
        components = self.component_of_[view]
        feature_ND = np.zeros((count, components.n_components_ + 1))
        if len(shown_M):
            # In float32 a site's features would depend, by rounding, on how many other sites are described with it.
            feature_ND[shown_M, :-1] = components.transform(descriptor_MF.astype(np.float64))
            feature_ND[shown_M, -1] = 1.0
        return feature_ND


def describe_view(rows: Sequence[SiteRow], crops: CropDescriptors, view: View) -> tuple[Ints, NDArray[np.float32]]:
    """Return the sites that a view shows (M indices among the rows) and their descriptors (M, F).

    The descriptor of a site with several crops at its place in the view is the mean of theirs.
    """
    tiles = [
        (index, crop)
        for index, row in enumerate(rows)
        for crop, its_view, lies_at_site in zip(row.crops, row.views, row.lies_at_site, strict=True)
        if its_view is view and lies_at_site
    ]
    if not tiles:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
    site_T, crop_T = np.array(tiles, dtype=np.int64).T
    descriptor_TF = crops.describe(crop_T)
    shown_M, first_M, count_M = np.unique(site_T, return_index=True, return_counts=True)
    if len(shown_M) < len(site_T):
        descriptor_TF = (np.add.reduceat(descriptor_TF, first_M) / count_M[:, None]).astype(np.float32)
    return shown_M, descriptor_TF
