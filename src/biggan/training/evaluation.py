"""Evaluation while training: a small recipe on the averaged generator, logged, and the best model kept.

It never changes what the steps do. It may take a given share of the time, over all
starts of a run: an evaluation that falls due earlier is put off. The first is made in any case.
"""

import hashlib
import json
import time
from collections.abc import Callable

import torch

from biggan.checkpoints.model_dir import ModelCard
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.metrics.evaluate import evaluate, higher_is_better, parse_recipe, refuse_impossible
from biggan.metrics.features import open_extractor
from biggan.metrics.statistics import ImageSet
from biggan.runtime.atomic_io import default_cache
from biggan.runtime.distributed import World, any_rank, on_rank_zero
from biggan.runtime.metric_logger import JsonlLog
from biggan.runtime.precision import Precision
from biggan.sampling.image_sets import generated_images, limit_images, real
from biggan.sampling.sampler import Sampler


class Evaluator:
    """Says when, measures, and remembers the best. All ranks must call its methods together."""

    def __init__(
        self,
        config: RunConfig,
        source: Source,
        folder: RunDir,
        precision: Precision,
        world: World,
        step: int,
        report: Callable[[str], None],
        trust_extractor: bool,
    ) -> None:
        """Raises UserError where the extractor cannot be opened, or is a program that is not trusted."""
        self.config, self.folder, self.world, self.report = config.eval, folder, world, report
        self.cache = (config.data.cache or default_cache()) / "metrics"
        options = {"weights": config.eval.extractor_weights, "cache": self.cache}
        options |= {"device": precision.device, "bf16": precision.bf16, "trusted": trust_extractor}
        on_rank_zero(lambda: open_extractor(config.eval.extractor, **options) and None)  # fetches the weights for all
        self.extractor = open_extractor(config.eval.extractor, **options)
        self.reference = limit_images(real(source), config.eval.reference_images)
        self.seed, self.pending = config.train.seed, False
        self.refuse_early(source)
        with folder.writing():
            file = folder.path / "evaluations.jsonl"
            self.log = JsonlLog(file, resume_step=step) if world.is_rank_zero else None
            lines = file.read_text().splitlines() if world.is_rank_zero else []
        self.spent = sum(json.loads(line)["evaluation_seconds"] for line in lines)  # on rank 0, which decides
        words = [config.eval.recipe, self.extractor.sha256, self.reference.identity, self.extractor.arithmetic]
        self.made_by = hashlib.sha256(repr(words).encode()).hexdigest()

    def refuse_early(self, source: Source) -> None:
        """Raises ConfigError on a recipe that could not be made, before the first step."""
        blank = torch.zeros(2, 3, source.resolution, source.resolution, dtype=torch.uint8)
        stand_in = ImageSet(lambda count: iter([(blank, torch.zeros(2))]), "", {}, source.class_names, None)
        refuse_impossible(stand_in, self.reference, self.extractor, parse_recipe(self.config.recipe))

    def due(self, step: int, seconds: float) -> bool:
        """Whether to evaluate now; `seconds`: of training so far, evaluations included."""
        self.pending = self.pending or step % self.config.every == 0
        affordable = self.spent <= self.config.max_time_fraction * seconds
        (now,) = any_rank(self.world.is_rank_zero and self.pending and affordable)
        return now

    def run(self, sampler: Sampler, card: ModelCard) -> tuple[bool, dict[str, float]]:
        """Measure, log, and keep the model if it is the best so far; whether it is, and the scores."""
        started, self.pending = time.monotonic(), False
        samples = generated_images(sampler, str(self.folder.path), seed=self.seed)
        wanted = parse_recipe(self.config.recipe)
        scores = evaluate(
            samples, self.reference, self.extractor, wanted, cache=self.cache, world=self.world, report=self.report
        ).scores
        values = {name: score["mean"] if "mean" in score else score["value"] for name, score in scores.items()}
        name, value = next(iter(values.items()))
        best = on_rank_zero(lambda: self.keep_if_best(sampler, card, name, value))
        seconds = time.monotonic() - started
        if self.world.is_rank_zero:
            with self.folder.writing():
                self.log.write(card.step, values | {"evaluation_seconds": seconds})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.report(f"step {card.step}: {shown}{', the best so far' if best else ''}")
        self.spent += seconds
        return best, values

    def keep_if_best(self, sampler: Sampler, card: ModelCard, name: str, value: float) -> bool:
        """What rank 0 does with a score."""
        known = self.folder.best()
        comparable = known is not None and (known["step"] < card.step or known.get("before_a_return", False))
        if comparable and known.get("made_by") == self.made_by:
            ahead = value > known["value"] if higher_is_better(name) else value < known["value"]
            if not ahead:
                return False
        best = {"step": card.step, "score": name, "value": value, "made_by": self.made_by}
        self.folder.save_best(best, card, sampler.generator.state_dict())
        return True
