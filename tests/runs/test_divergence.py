"""A training diverges if its loss explodes or its gradients are not finite."""

import math

import pytest

from runs.divergence import SKIPPED_STEPS, Diverged, DivergenceCheck


def check_loss(loss: float, first: float) -> None:
    check = DivergenceCheck(is_scaled=False)
    check.first_loss = first
    check(7, loss, 1.0)


def test_a_loss_far_beyond_its_first_has_diverged() -> None:
    check_loss(49.0, first=3.0)  # ten times the loss of a model that scores all captions alike
    check_loss(199.0, first=20.0)
    for loss, first in ((51.0, 3.0), (201.0, 20.0)):
        with pytest.raises(Diverged, match=f"step 7: the loss is {loss}, after {first} at first") as found:
            check_loss(loss, first)
        assert found.value.step == 7


def test_a_scaler_may_skip_some_steps_whose_gradient_is_not_finite() -> None:
    check = DivergenceCheck(is_scaled=True)
    for norm in (math.inf, 1.0, math.nan):  # one finite step resets the count
        for step in range(SKIPPED_STEPS):
            check(step, 4.0, norm)
    with pytest.raises(Diverged, match="step 7 and the 50 before it have no finite gradient: the loss is 4"):
        check(7, 4.0, math.nan)
    for is_scaled, loss, norm in ((False, 4.0, math.inf), (False, math.nan, 1.0), (True, math.inf, 1.0)):
        with pytest.raises(Diverged, match=f"step 1: the loss is {loss} and the norm of its gradient {norm}"):
            DivergenceCheck(is_scaled=is_scaled)(1, loss, norm)
