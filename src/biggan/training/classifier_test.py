"""Testing the averaged discriminator as a classifier while it is trained (Salimans et al. 2016, section 5)."""

import logging

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source, open_data
from biggan.metrics.classification import Classifier, count_errors
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.errors import DataError, NonFiniteScore
from biggan.runtime.metric_logger import JsonlLog
from biggan.training.hooks import HookResult, RunEnd
from biggan.training.signals import StoppedEarly, StopRequest, until_stopped
from biggan.training.train_state import TrainState

logger = logging.getLogger(__name__)


class ClassifierTest:
    """The hook that counts, on rank 0, how many test images the averaged discriminator classifies wrong, into
    RUN/classifier_test.jsonl. It never changes what the steps compute. All ranks call it together."""

    at_end: frozenset[RunEnd] = frozenset({"completed"})

    def __init__(
        self, config: RunConfig, state: TrainState, source: Source, run_dir: RunDir, step: int, stop: StopRequest
    ) -> None:
        """Raises DataError where the test images cannot be read or are of other classes."""
        self.every, self.batch, self.run_dir, self.log = config.classify.every, config.train.batch, run_dir, None
        self.stop = stop
        spec, filters = config.classify.test_data, {"classes": config.data.classes}
        self.images = open_data(config.data, config.model.resolution, spec, filters=filters, flip=False)
        if self.images.class_names != source.class_names:
            different = ", ".join(sorted(set(self.images.class_names) ^ set(source.class_names))[:3])
            raise DataError(
                f"classify.test_data={spec} has other classes than {source.name} ({different} are only in one of them): "
                "give test images in folders named as those of --data"
            )
        self.classifier = Classifier(state.discriminator_ema.average, state.precision.device, source.class_names)
        if state.plan.world.is_rank_zero:
            with run_dir.writing():
                self.log = JsonlLog(run_dir.path / "classifier_test.jsonl", resume_step=step)

    def due(self, step: int, seconds: float) -> bool:
        return step % self.every == 0

    def run(self, step: int) -> HookResult:
        """The errors go to the log alone: no collapse rule looks at them."""
        on_rank_zero(lambda: self.count_errors(step))
        return HookResult()

    def count_errors(self, step: int) -> None:
        """What rank 0 does. Logits that are not finite are reported in the log; nothing is written down. Gives up
        between two batches when rank 0, which alone is at work, is asked to stop."""
        try:
            batches = until_stopped(self.images.iterate_once(self.batch), self.stop.is_set)
            errors = count_errors(self.classifier.logits, batches)
        except StoppedEarly:
            logger.info("step %d: the test was given up, since the run was asked to stop", step)
            return
        except NonFiniteScore as error:
            logger.warning("step %d: no test error, since %s", step, error)
            return
        with self.run_dir.writing():
            self.log.write(step, {"test_error": errors.percent, "test_wrong": int(errors.wrong)})
        logger.info("step %d: %d of %d test images wrong (%.2f %%)", step, errors.wrong, errors.images, errors.percent)
