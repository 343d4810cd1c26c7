"""A study file becomes checked, frozen objects: ``load_study_file`` -> ``StudyConfig`` -> ``TrialConfig``.

Comes in: TOML text and ``--set`` overrides. Goes out: the study's configuration, its search space (``Space``, with the
forms of a key: ``Fixed``, ``Choices``, ``Range``, ``ByKey``), and one trial's resolved values. Also here: the tables of
choices, the catalogue of data sets, and the results that pass between stages. Imports only ``errors``.
"""

from pipeline.config.forms import ByKey, Choices, Fixed, Range, Value
from pipeline.config.space import Space
from pipeline.config.study_config import StudyConfig
from pipeline.config.study_file import StudyFile, check_name, load_study_file
from pipeline.config.trial import Degrade, Downscale, ModelConfig, TrainConfig, TrialConfig

__all__ = [
    "ByKey",
    "Choices",
    "Degrade",
    "Downscale",
    "Fixed",
    "ModelConfig",
    "Range",
    "Space",
    "StudyConfig",
    "StudyFile",
    "TrainConfig",
    "TrialConfig",
    "Value",
    "check_name",
    "load_study_file",
]
