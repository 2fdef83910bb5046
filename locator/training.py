"""The training of a locator, from marked studies to ``final/`` and the report of its held-out errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from locator.batches import ImageBatches
from locator.calibration import HeldOutStudy, calibrate, detect_held_out
from locator.encoders import PRETRAINED, load_pretrained, weights_sha256
from locator.field_height import learn_field_height
from locator.knowledge import Knowledge
from locator.learning_set import LearningSet
from locator.locator import Locator
from locator.network import LocatorNetwork, new_network
from locator.report import write_report
from locator.saved_locator import save_locator
from locator.seen_studies import TRAINED_SERIES, trained_series
from locator.trainer import LocatorTrainer
from locator.training_data import cache_images
from runs.preemption import Preemption
from runs.session import Session
from runs.settings import OptimizationSettings
from runs.shutdown import Stopped
from workspace.setting_error import SettingError


class LocatorTraining:
    """The training of a locator, as a `runs.session.Training`.

    Args:
        studies: the marked studies, divided by fold, with their atlas and spine prior.
        steps: updates of the weights in all.
        batch_size: images of each orientation per process and step.
        checkpointing_steps: how often a checkpoint is written.
        optimization: how the weights are updated.
        held_out_folds: the folds that the studies were divided by.
        seed: of every random choice.
        settings: the resolved settings, to be recorded.
        base: the folder of a base whose image tower is the encoder of sagittal images; None for a small encoder.
    """

    def __init__(
        self,
        studies: LearningSet,
        *,
        steps: int,
        batch_size: int,
        checkpointing_steps: int,
        optimization: OptimizationSettings,
        held_out_folds: Sequence[int],
        seed: int,
        settings: dict[str, Any],
        base: Path | None = None,
    ) -> None:
        self.studies = studies
        self.steps = steps
        self.batch_size = batch_size
        self.checkpointing_steps = checkpointing_steps
        self.optimization = optimization
        self.held_out_folds = held_out_folds
        self.seed = seed
        self.settings = settings
        self.base = base
        self.dataset_fingerprint = studies.fingerprint
        self.facts: dict[str, Any] = {}

    def build_model(self) -> LocatorNetwork:
        """Return the untrained network. Raises SettingError if the base has no such image tower."""
        if self.base is None:
            return new_network()
        network = new_network(PRETRAINED)
        load_pretrained(network.sagittal.encoder, self.base)
        return network

    def plan(self, model: LocatorNetwork, processes: int) -> dict[str, Any]:
        """Return the settings and fingerprints that a resumed run must share with its checkpoint."""
        return {
            "seed": self.seed,
            "per_device_train_batch_size": self.batch_size,
            "max_train_steps": self.steps,
            "held_out_folds": list(self.held_out_folds),
            "processes": processes,
            "dataset_fingerprint": self.dataset_fingerprint,
            # A checkpoint does not contain the weights of a frozen encoder.
            "base": None if self.base is None else f"sha256 {weights_sha256(model.sagittal.encoder)}",
        }

    def build_trainer(self, accelerator: Accelerator, model: LocatorNetwork) -> LocatorTrainer:
        """Return the trainer; the first process caches the images if that is not done yet."""
        studies = sorted((*self.studies.training, *self.studies.held_out), key=lambda study: study.study_id)
        with accelerator.main_process_first():  # the other processes then find them on the disk
            caches = cache_images(studies, self.studies.processed, self.studies.fingerprint, _progress)
        known = {orientation: cache.channels_known_in(self.studies.training) for orientation, cache in caches.items()}
        self.knowledge = Knowledge({orientation: known_C for orientation, known_C in known.items() if known_C.any()})
        if not self.knowledge.channels:
            raise ValueError(
                f"{self.studies.processed}: no training study has slices with geometry near its marks; hold out other "
                "folds"
            )
        if self.base is not None and "sagittal" not in self.knowledge.channels:
            raise SettingError(
                "base", f"{str(self.base)!r}: reads sagittal images only, and no training study has marks in one"
            )
        batches = {
            orientation: ImageBatches(
                orientation,
                cache,
                cache.rows_to_draw(self.studies.training),
                self.batch_size,
                self.seed,
                accelerator.process_index,
                accelerator.num_processes,
            )
            for orientation, cache in caches.items()
            if orientation in self.knowledge.channels
        }
        return LocatorTrainer(accelerator, model, batches, self.steps, self.checkpointing_steps, self.optimization)

    def describe(self, trainer: LocatorTrainer) -> str:
        """Return one line for the log."""
        training, held_out = len(self.studies.training), len(self.studies.held_out)
        figures = f"{training} marked studies to learn from, {held_out} held out, {trainer.steps} steps"
        return "\n".join([figures, *self.knowledge.lines])

    def finish(self, trainer: LocatorTrainer, session: Session) -> None:
        """Locate the held-out studies, calibrate the expected errors on them, and write ``final/`` and the report."""
        if not session.accelerator.is_main_process:
            return
        bare = Locator(
            trainer.model.eval(),
            self.studies.prior,
            self.studies.atlas,
            knowledge=self.knowledge,
            field_height=learn_field_height(self.studies.training, self.studies.processed, self.studies.prior.shape_N3),
        )
        held_out = self._detect_in_held_out(bare, session.preemption, trainer.steps)
        notes: dict[str, Any] = {"dataset_fingerprint": self.dataset_fingerprint, "studies": len(self.studies.training)}
        if self.base is not None:
            notes["sagittal_encoder_sha256"] = weights_sha256(trainer.model.sagittal.encoder)
        notes[TRAINED_SERIES] = trained_series(self.studies.training)
        save_locator(calibrate(bare, held_out), session.run / "final", notes)
        if held_out:
            write_report(session.logs, bare, held_out, self.studies)
        else:
            print("no study is held out: the locator's errors are unknown")

    def _detect_in_held_out(self, locator: Locator, preemption: Preemption, step: int) -> list[HeldOutStudy]:
        """Return the detections in the held-out studies after the last step. Raises Stopped if the run is to stop."""
        held_out: list[HeldOutStudy] = []
        for marked in tqdm(self.studies.held_out, desc="locating held-out studies", unit="study"):
            if preemption.should_first_process_stop():
                raise Stopped("after the last step", step)
            held_out += detect_held_out(locator, marked, self.studies.processed)
        return held_out


def _progress(studies: Any) -> Any:
    return tqdm(studies, desc="caching images", unit="study")
