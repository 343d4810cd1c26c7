"""Choices in a study file that look wrong: what is said about them before and at the start of a run.

Comes in: a study's configuration, the sizes of its data, and the number of workers. Goes out: sentences. Nothing is
refused here; what cannot be run at all is refused by `config` and `data.prepare`.
"""

import math
from collections.abc import Iterator

from pipeline.config import StudyConfig
from pipeline.config.forms import parts_of
from pipeline.config.study_config import Budget

MANY_EPOCHS = 10  # from here on a guided search gains from a pruner
TRIALS_PER_BRACKET = 10
LEAST_SGD_RATE = 0.03  # the losses are means over pixels, so their gradients are small


def advice(config: StudyConfig, images: int, inputs: int, slots: int, room: int | None = None) -> Iterator[str]:
    """All that looks wrong.

    Args:
        images: in the training set.
        inputs: pixels of a degraded image.
        slots: workers; ``room`` as of `about_window`.
    """
    yield from _about_space(config, images, inputs)
    yield from _about_pruner(config)
    yield from about_window(config, slots, room)


def about_window(config: StudyConfig, slots: int, room: int | None) -> Iterator[str]:
    """Too few open trials for the workers, or too many for the sampler: four times the workers, a sixth of the trials.

    ``room`` is how many workers could run here, where the user did not say how many. tests/benchmarks/window.py
    simulates what either costs; the figures are in pipeline/README.md.
    """
    budget, workers = config.budget, room or slots
    guided = config.sampler.name == "tpe"
    most = max(budget.trials // 6, Budget().concurrency)  # of which a guided sampler learns enough
    if slots > 1 and (budget.concurrency < 4 * slots if room is None else 4 * budget.concurrency <= room):
        price = f"; the sampler learns less from more than {most}" if guided and 4 * workers > most else ""
        yield (
            f"at most {budget.concurrency} open trials for {workers} workers, which will be idle at times; in a new "
            f"study, [budget] concurrency = {4 * workers} keeps them busy{price}"
        )
    if guided and budget.concurrency > most:
        yield (
            f"{budget.concurrency} of {budget.trials} trials are open at once, and the sampler learns from ended ones "
            f"only; in a new study, [budget] concurrency of at most {most} lets it learn more"
        )


def _about_space(config: StudyConfig, images: int, inputs: int) -> Iterator[str]:
    space, trials = config.space, config.budget.trials
    parts = [part for key in space.searched() for part in parts_of(space.dimension(key))]
    if trials > 1 and all(part.values is not None and len(part.values) == 1 for part in parts):
        yield f"no key has more than one value, so the {trials} trials differ in their random numbers only"
    if "linear" in space.reachable("layer_type"):
        widest = int(space.greatest("bottleneck", layer_type="linear"))
        if widest > inputs:
            yield f"[model] bottleneck: {widest} is wider than the input of {inputs} pixels, so nothing is compressed"
    largest = int(space.greatest("batch_size"))
    if largest > images / 10:
        yield (
            f"[train] batch_size: {largest} is more than a tenth of the {images:,} training images, which leaves "
            f"{max(1, images // largest)} steps an epoch"
        )
    rate = float(space.greatest("lr", optimizer="sgd"))
    if "sgd" in space.reachable("optimizer") and rate < LEAST_SGD_RATE:
        yield (
            f"[train] lr: {rate:g} at most is low for sgd, since losses are means over pixels; give it a range of its "
            'own, such as { by = "optimizer", sgd = { low = 0.03, high = 3.0, log = true }, default = … }'
        )


def _about_pruner(config: StudyConfig) -> Iterator[str]:
    budget, pruner = config.budget, config.pruner
    if pruner.name == "none" and config.sampler.name == "tpe" and budget.trials > 1 and budget.epochs >= MANY_EPOCHS:
        yield f"no pruner: every trial trains {budget.epochs} epochs; without [pruner] weak ones are stopped early"
    if pruner.name == "hyperband":
        given = {"min_resource": 1, "max_resource": budget.epochs, "reduction_factor": 3} | pruner.arguments
        most = given["max_resource"] if isinstance(given["max_resource"], int) else budget.epochs
        # As Optuna's HyperbandPruner counts them.
        brackets = int(math.log(most / given["min_resource"], given["reduction_factor"])) + 1
        if budget.trials < TRIALS_PER_BRACKET * brackets:
            yield (
                f"Hyperband spreads {budget.trials} trials over {brackets} brackets and compares within each only; it "
                f"needs about {TRIALS_PER_BRACKET * brackets} trials, or another pruner"
            )
