"""What this project must know of MLflow and MLflow does not document: tables, file names, texts of errors.

Each is checked by tests/tracking/test_mlflow_internals.py, which says what breaks if an upgrade changes it.
"""

import re
import sqlite3
import time
import uuid
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
from mlflow.tracking.multimedia import compress_image_size
from PIL import Image

from pipeline.files import png

# Columns of MLflow's database that hold absolute URIs of artifacts.
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
ADDED_BY_LOADING = "registered_model_meta"  # a file beside a model that is downloaded through the registry
DELETED_RUN = re.compile(r"The run (\w+) must be in the 'active' state")  # of a write to a run that was deleted
SERVER_ERROR = re.compile(r"failed with error code 5\d\d|50[234] Server Error")  # of a server that answers but is down
# Of an artifact server that has refused a request; it takes one again after "timeout" (408) and "too many" (429).
CLIENT_ERROR = re.compile(r"4(?!08|29)\d\d Client Error")
# A file in a run's folder "images"; older versions write % between the parts.
IMAGE = re.compile(r"([^+%]+)([+%])step\2(\d+)\2timestamp\2\d+\2[0-9a-f-]+(\2compressed)?\.(png|webp)")


def relocate(database: Path, old: str, new: str) -> int:
    """Replace the beginning of every artifact location in MLflow's database; returns how many were changed."""
    changed = 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in LOCATIONS:
            statement = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
            changed += connection.execute(statement, (new, len(old) + 1, len(old), old)).rowcount
    return changed


def artifact_locations(database: Path, experiment_id: str) -> list[str]:
    """The artifact location of every run and model of an experiment, deleted ones too."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return [
            row[0]
            for table, column in LOCATIONS[1:3]
            for row in connection.execute(f"SELECT {column} FROM {table} WHERE experiment_id = ?", (experiment_id,))
        ]


def image_key_and_step(name: str) -> tuple[str, int] | None:
    """What MLflow's `log_image` was given for a file of this name; None if it did not write the file."""
    match = IMAGE.fullmatch(name)
    return (match[1], int(match[3])) if match else None


def image_files(key: str, image: np.ndarray, step: int) -> dict[str, bytes]:
    """The two files in a run's folder "images" that MLflow's `log_image` writes: the image and a small preview.

    It writes one image in four requests; so, many can be written in one. Images are small, and encoded quickly.
    """
    name = f"{key}+step+{step}+timestamp+{time.time_ns() // 1_000_000}+{uuid.uuid4()}"
    picture, preview = Image.fromarray(image), BytesIO()
    compress_image_size(picture).save(preview, "webp", method=0)
    return {f"{name}.png": png(image, compress_level=1), f"{name}+compressed.webp": preview.getvalue()}
