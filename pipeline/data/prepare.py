"""Data preparation as a stage: a study's data set, downloaded, verified, and checked against the study.

Comes in: a study's configuration and the data folder. Goes out: its data set; nothing of the study is written.
"""

from pathlib import Path

from pipeline.config import StudyConfig
from pipeline.config.catalogue import PICTURE_FOLDER
from pipeline.config.choices import METRICS, SSIM_WINDOW
from pipeline.config.trial import check_depth
from pipeline.data import Dataset, load
from pipeline.data.degrade import input_size
from pipeline.data.sets import forget
from pipeline.errors import ConfigError, DataError


def prepare(config: StudyConfig, data_dir: Path, download: bool = True) -> Dataset:
    """Load a study's data set, pictures as they are now, and check that the study can be run on it.

    Side effects: missing files are downloaded into ``data_dir``; a second call downloads nothing.

    Raises:
        DataError: as `load`; or the images are too small for SSIM, not divisible by the downscale factor, or without
            the classes that the objective needs.
        ConfigError: convolutional trials may be deeper than the degraded images allow, or batches larger than the
            training set are searched.
    """
    if config.dataset.startswith(PICTURE_FOLDER):
        forget()
    data = load(config.dataset, data_dir, download)
    degraded_size = input_size(data.image_size, config.degrade)
    if "conv" in config.space.reachable("layer_type"):
        for unshuffle in map(int, config.space.reachable("unshuffle")):
            depth = int(config.space.greatest("depth", layer_type="conv", unshuffle=unshuffle))
            check_depth(depth, degraded_size, unshuffle)
    most = config.space.greatest("batch_size")
    if "batch_size" in config.space.searched() and int(most) > len(data.train):
        raise ConfigError(
            f"[train] batch_size: up to {most} is searched, but {config.dataset} has {len(data.train):,} training "
            "images; all larger batches would be the same one"
        )
    metric = config.objective.metric
    if METRICS[metric].needs_judge and data.classes < 2:
        raise DataError(
            f"dataset {config.dataset}: it has no classes for [objective] metric = {metric!r}; rank by psnr or ssim"
        )
    if min(data.image_size) < SSIM_WINDOW:
        height, width = data.image_size
        raise DataError(
            f"dataset {config.dataset}: SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"not {height} x {width}"
        )
    return data
