"""A check for divergence: the loss or its gradient is not finite, or the loss is far above its first value."""

import math

#: A loss this many times its first has diverged. The second number is about the loss of a model that scores all
#: captions alike: a first loss below it does not lower the bound.
EXPLODED_TIMES, GUESSING_LOSS = 10.0, 5.0
#: Consecutive steps that fp16's scaler may skip. It starts at 65536 and each skipped step halves it: some 16 are usual.
SKIPPED_STEPS = 50


class Diverged(ValueError):
    """The loss or its gradient is not finite in `step`, or the loss is far above its first value."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class DivergenceCheck:
    """Check the loss and the gradient of each step, before the weights are updated.

    `first_loss` is that of the run's first step; a resumed run reads it from metrics.csv. The number of consecutive
    skipped steps is not part of a checkpoint: a resumed run that skips every step is detected `SKIPPED_STEPS` later.
    """

    def __init__(self, *, is_scaled: bool) -> None:
        """is_scaled: the training computes in fp16, whose scaler skips a step with infinite gradients by itself."""
        self.first_loss: float | None = None
        self._may_skip = SKIPPED_STEPS if is_scaled else 0
        self._skipped = 0

    def __call__(self, step: int, loss: float, gradient_norm: float) -> None:
        """Raise Diverged if the step must not update the weights, or if too many steps in a row were skipped."""
        self._check_finite(step, loss, gradient_norm)
        self.first_loss = self.first_loss or loss
        bound = EXPLODED_TIMES * max(self.first_loss, GUESSING_LOSS)
        if loss > bound:
            raise Diverged(
                step, f"step {step}: the loss is {loss:.1f}, after {self.first_loss:.1f} at first; lower learning_rate"
            )

    def _check_finite(self, step: int, loss: float, gradient_norm: float) -> None:
        self._skipped = 0 if math.isfinite(gradient_norm) else self._skipped + 1
        if math.isfinite(loss) and self._skipped <= self._may_skip:
            return
        skipped = f" and the {self._skipped - 1} before it have no finite gradient" if self._skipped > 1 else ""
        raise Diverged(
            step,
            f"step {step}{skipped}: the loss is {loss} and the norm of its gradient {gradient_norm}; lower "
            "learning_rate, or set mixed_precision to no",
        )
