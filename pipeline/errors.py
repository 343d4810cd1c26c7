"""The errors a user can meet, each with the exit code of the command it ends.

    StudyError                 1  something failed while running
    ├── InputError             2  what the user gave cannot be used; nothing was written
    │   ├── ConfigError           a study file, or an option that replaces a part of it
    │   ├── DataError             a data set is absent, damaged or does not fit the study
    │   └── NotFoundError         a study, run or model of that name does not exist
    ├── ShapeError                tensors that do not fit together (an error of the caller)
    ├── CheckpointError           a checkpoint that is damaged or absent
    ├── EngineError               the workers could not be started or reached
    ├── TrackingError             the tracking store or the model artifacts cannot be used
    ├── LossError                 a database lost a part of a study
    └── GateError                 a model was not good enough to be promoted
    Interrupted              130  the user stopped the command; the same command resumes it

Messages are one or two lines: what, where, what is allowed, what to do. Imports nothing of the project.
"""

RESUME = "run the same command again to resume"


def first_line(error: BaseException) -> str:
    """The first line of a message, or the kind of the error if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class StudyError(Exception):
    """Base of every error that is reported without a traceback."""

    exit_code = 1


class InputError(StudyError):
    exit_code = 2


class ConfigError(InputError): ...


class DataError(InputError): ...


class NotFoundError(InputError): ...


class ShapeError(StudyError): ...


class CheckpointError(StudyError): ...


class EngineError(StudyError): ...


class TrackingError(StudyError): ...


class LossError(StudyError): ...


class GateError(StudyError): ...


class Interrupted(StudyError):
    exit_code = 130

    def __init__(self, message: str = RESUME) -> None:
        super().__init__(message)
