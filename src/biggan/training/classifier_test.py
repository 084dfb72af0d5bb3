"""Testing the averaged discriminator as a classifier while it is trained; it never changes what the steps do."""

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source, open_source
from biggan.metrics.classification import Classifier, count_errors
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.errors import DataError
from biggan.runtime.metric_logger import JsonlLog
from biggan.training.resume import Report
from biggan.training.train_state import TrainState


class ClassifierTest:
    """Says when, tests on the first rank, writes RUN/tests.jsonl. All ranks must call `run` together."""

    def __init__(
        self, config: RunConfig, state: TrainState, source: Source, folder: RunDir, step: int, report: Report
    ) -> None:
        """Raises DataError where the test images cannot be read or are of other classes."""
        self.every, self.batch, self.report = config.classify.every, config.train.batch, report
        only = {"classes": config.data.classes}
        self.test = open_source(config.classify.test_data, config.model.resolution, filters=only, cache=config.data.cache)
        if self.test.class_names != source.class_names:
            odd = sorted(set(self.test.class_names) ^ set(source.class_names))[:3]
            raise DataError(
                f"classify.test_data={config.classify.test_data} has other classes than {source.name} ({', '.join(odd)} are only "
                "in one of them): give test images in folders named as those of --data"
            )
        self.classifier = Classifier(state.classifier.average, state.precision.device, source.class_names)
        self.folder, self.log = folder, None
        if state.plan.world.is_rank_zero:
            with folder.writing():
                self.log = JsonlLog(folder.path / "tests.jsonl", resume_step=step)

    def due(self, step: int) -> bool:
        """Whether to test now."""
        return step % self.every == 0

    def run(self, step: int) -> None:
        """Test, log and tell."""
        on_rank_zero(lambda: self.test_here(step))

    def test_here(self, step: int) -> None:
        """On this rank."""
        found = count_errors(self.classifier.logits, self.test.iterate_once(self.batch))
        with self.folder.writing():
            self.log.write(step, {"test_error": found.percent, "test_wrong": int(found.wrong)})
        self.report(f"step {step}: {found.wrong} of {found.images} test images wrong ({found.percent:.2f} %)")
