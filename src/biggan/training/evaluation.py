"""Evaluation while training: a small recipe on the averaged generator, logged, and the best model kept.

It never changes what the steps compute. It may take a given fraction of the time, over all starts of a run: an evaluation
that falls due earlier is put off. The first is made in any case. One during which the run is asked to stop is given up.
"""

import dataclasses
import hashlib
import logging
import math
import time
from typing import Any

import torch

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.metrics.cautions import log_cautions
from biggan.metrics.evaluate import check_requests, evaluate, higher_is_better, parse_recipe, score_value
from biggan.metrics.features import open_extractor_on_all_ranks
from biggan.metrics.statistics import ImageSet
from biggan.runtime.atomic_io import metrics_cache
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.errors import NonFiniteScore
from biggan.runtime.metric_logger import JsonlLog, read_log
from biggan.sampling.image_sets import generated_images, limit_images, real_images
from biggan.sampling.sampler import Sampler
from biggan.training.hooks import HookResult, RunEnd
from biggan.training.outputs import build_model_card, build_sampler
from biggan.training.signals import StoppedEarly, StopRequest, until_stopped
from biggan.training.train_state import TrainState

logger = logging.getLogger(__name__)


class Evaluator:
    """The hook that scores the averaged generator and keeps the best model in RUN/best. All ranks call it together."""

    at_end: frozenset[RunEnd] = frozenset({"completed"})

    def __init__(
        self,
        config: RunConfig,
        state: TrainState,
        source: Source,
        run_dir: RunDir,
        step: int,
        trust_extractor: bool,
        stop: StopRequest,
    ) -> None:
        """Raises UserError where the extractor cannot be opened, or is a program that is not trusted."""
        self.run_config, self.config, self.state, self.run_dir = config, config.eval, state, run_dir
        self.stop = stop
        self.cache = metrics_cache(config.data.cache)
        self.extractor = open_extractor_on_all_ranks(
            config.eval.extractor,
            weights=config.eval.extractor_weights,
            cache=self.cache,
            device=state.precision.device,
            bf16=state.precision.bf16,
            trusted=trust_extractor,
        )
        self.reference = limit_images(real_images(source), config.eval.reference_images)
        self.pending = False
        self.cautions: set[str] = set()  # that were logged
        self.refuse_early(source)
        self.log, past = None, []
        if state.plan.world.is_rank_zero:
            with run_dir.writing():
                file = run_dir.path / "evaluations.jsonl"
                self.log = JsonlLog(file, resume_step=step)
            past = read_log(file)
        self.spent = sum(line.get("evaluation_seconds", 0.0) for line in past)  # on rank 0, which decides
        words: list[Any] = [config.eval.recipe, self.extractor.sha256, self.reference.identity]
        words += [sorted(numerics.items()) for numerics in (self.extractor.numerics, state.precision.numerics)]
        self.recipe_hash = hashlib.sha256(repr(words).encode()).hexdigest()

    def refuse_early(self, source: Source) -> None:
        """Raises ConfigError on a recipe that could not be made, before the first step."""
        blank = torch.zeros(2, 3, source.resolution, source.resolution, dtype=torch.uint8)
        names = source.class_names if self.run_config.model.has_class_input else ()
        stand_in = ImageSet(lambda count: iter([(blank, torch.zeros(2))]), "", {}, names, None)
        check_requests(stand_in, self.reference, self.extractor, parse_recipe(self.config.recipe))

    def due(self, step: int, seconds: float) -> bool:
        self.pending = self.pending or step % self.config.every == 0
        return self.pending and on_rank_zero(lambda: self.spent <= self.config.max_time_fraction * seconds)

    def run(self, step: int) -> HookResult:
        """Measure, log, and keep the model if it is the best so far; its checkpoint is wanted then too. Scores that are not
        finite are reported in the log; none is written down, and training goes on. Gives up between two batches when
        any rank is asked to stop."""
        started, self.pending = time.monotonic(), False
        sampler = build_sampler(self.state, self.run_config)
        samples = generated_images(sampler, str(self.run_dir.path), seed=self.run_config.train.seed)
        requests = parse_recipe(self.config.recipe)
        try:
            evaluation = evaluate(
                self.interruptible(samples),
                self.interruptible(self.reference),
                self.extractor,
                requests,
                cache=self.cache,
                world=self.state.plan.world,
            )
        except StoppedEarly:  # on all ranks
            self.spent += time.monotonic() - started
            text = "step %d: the evaluation was given up, since the run was asked to stop; later: biggan evaluate %s"
            logger.info(text, step, self.run_dir.path)
            return HookResult()
        except NonFiniteScore as error:  # on all ranks
            self.spent += time.monotonic() - started
            logger.warning("step %d: no scores, since %s", step, error)
            return HookResult()
        log_cautions(evaluation.cautions, self.cautions)
        values = {name: score_value(score) for name, score in evaluation.scores.items()}
        name, value = next(iter(values.items()))
        best = on_rank_zero(lambda: self.keep_if_best(sampler, step, name, value))
        seconds = time.monotonic() - started
        if self.log is not None:
            with self.run_dir.writing():
                self.log.write(step, values | {"evaluation_seconds": seconds})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        logger.info("step %d: %s%s", step, shown, ", the best so far" if best else "")
        self.spent += seconds
        return HookResult(metrics=values, save_checkpoint=best)

    def interruptible(self, images: ImageSet) -> ImageSet:
        """The set, whose batches end with StoppedEarly on all ranks when any of them is asked to stop."""
        return dataclasses.replace(
            images, batches=lambda count: until_stopped(images.batches(count), self.stop.is_set_anywhere)
        )

    def keep_if_best(self, sampler: Sampler, step: int, name: str, value: float) -> bool:
        """What rank 0 does with a score."""
        known = self.run_dir.best()
        comparable = known is not None and (known["step"] < step or known.get("before_rollback", False))
        comparable = comparable and math.isfinite(known["value"])
        if comparable and known.get("recipe_hash") == self.recipe_hash:
            ahead = value > known["value"] if higher_is_better(name) else value < known["value"]
            if not ahead:
                return False
        best = {"step": step, "score": name, "value": value, "recipe_hash": self.recipe_hash}
        self.run_dir.save_best(best, build_model_card(self.run_config, step), sampler.generator.state_dict())
        return True
