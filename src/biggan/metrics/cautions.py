"""What scores should not be taken for: sentences beside an evaluation."""

import logging

from biggan.metrics.statistics import FeatureStatistics, ImageSet

SHOWN = 3  # classes named in a sentence

logger = logging.getLogger(__name__)


def compare_classes(samples: ImageSet, reference: ImageSet) -> list[str]:
    """A caution where the two sets are not of the same classes, unless one has no classes at all."""
    if not samples.class_names or not reference.class_names:
        return []
    different = sorted(set(samples.class_names) ^ set(reference.class_names))
    if not different:
        return []
    named = ", ".join(different[:SHOWN]) + (", ..." if len(different) > SHOWN else "")
    counts = f"{len(samples.class_names)} and {len(reference.class_names)}"
    return [
        f"samples and reference have different classes ({counts}; only in one of them: {named}): the distance between the "
        "sets includes that"
    ]


def compare_counts(fake: FeatureStatistics, real: FeatureStatistics, score: str, images: int, classes: int) -> list[str]:
    """A caution where a Frechet distance, "fid" or "intra" (within each of the classes), of `images` images is of no more
    images than features, so that a covariance is singular."""
    if score == "fid":
        width, least = len(fake.moments[0]), min(images, real.num_images)
    else:
        width = fake.features.shape[1]
        labels = (fake.labels[:images], real.labels[:images])
        least = min(int(found.bincount(minlength=classes).min()) for found in labels)
    if least > width:
        return []
    where = "the smallest class or set has" if score == "intra" else "the smaller set has"
    return [
        f"{score}{images}: {where} {least:,} images, the features are {width:,}: with no more images than features the "
        "covariance is singular and the distance too large; compare it only with distances of equally many images"
    ]


def log_cautions(cautions: tuple[str, ...], known: set[str]) -> None:
    """Log the cautions that are not `known`, and add them to it."""
    for caution in cautions:
        if caution not in known:
            known.add(caution)
            logger.warning("%s", caution)
