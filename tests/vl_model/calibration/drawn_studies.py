"""Studies whose true probabilities are known: the severities are drawn from them, and a head distorts them."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from vl_model.data.site_table import Floats, SiteTable, full_table, site_table


@dataclass(frozen=True)
class DrawnStudies:
    """Rows of complete studies, a head's log probabilities, and the true ones (N, 3)."""

    table: SiteTable
    log_head_N3: Floats
    log_true_N3: Floats


def drawn_studies(
    studies: int, seed: int, slope: float = 3.0, bias: tuple[float, ...] = (1.0, 0.0, 0.0)
) -> DrawnStudies:
    """Draw studies; the head is by default overconfident (slope 3) and biased to Normal/Mild."""
    rng = np.random.default_rng(seed)
    table = full_table(range(studies), site_table([]))
    burden_N = np.repeat(rng.normal(size=studies), 25)
    normal_N3 = rng.normal(size=(len(table), 3)) + burden_N[:, None] * np.array([-0.5, 0.0, 0.5])
    log_true_N3 = log_softmax(normal_N3 * 1.5 + np.array([1.5, 0.0, -1.0]), axis=1)
    table.severity_N[:] = (rng.random(len(table))[:, None] > np.exp(log_true_N3).cumsum(axis=1)[:, :2]).sum(axis=1)
    return DrawnStudies(table, log_softmax(slope * log_true_N3 + np.array(bias), axis=1), log_true_N3)
