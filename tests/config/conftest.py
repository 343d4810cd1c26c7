"""The fixture that loads study files from text."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_for_tests import DEGRADE, HEAD, Load

from pipeline.config import StudyFile, load_study_file


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads HEAD + DEGRADE + the text given, or ``whole`` alone; the file is ``study.toml``."""

    def load(
        text: str = "",
        *overrides: str,
        whole: str | bytes | None = None,
        name: str | None = None,
        trials: int | None = None,
    ) -> StudyFile:
        path = tmp_path / "study.toml"
        content = HEAD + DEGRADE + text if whole is None else whole
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_study_file(path, overrides, name, trials)

    return load
