"""Study files and what they become: ``load_study_file`` -> ``StudyConfig`` -> ``TrialConfig``.

Comes in: TOML text and ``--set`` overrides. Goes out: frozen, validated objects. Imports only ``errors``.
"""

from pipeline.config.forms import Choices, Fixed, Range, Split
from pipeline.config.keys import Value
from pipeline.config.space import Space
from pipeline.config.study_file import StudyConfig, StudyFile, check_name, load_study_file
from pipeline.config.trial import Degrade, Downscale, ModelConfig, TrainConfig, TrialConfig

__all__ = [
    "Choices",
    "Degrade",
    "Downscale",
    "Fixed",
    "ModelConfig",
    "Range",
    "Space",
    "Split",
    "StudyConfig",
    "StudyFile",
    "TrainConfig",
    "TrialConfig",
    "Value",
    "check_name",
    "load_study_file",
]
