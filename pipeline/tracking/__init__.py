"""MLflow: the store, runs, models, the registry, and the queue of writes for a store that is unreachable.

Comes in: a home, and what a study records. Goes out: run ids, runs read back, verified models. The only package that
imports mlflow; only `models` imports torch, inside its functions.
"""

import os

# MLflow reads these when it is imported: no telemetry, no model catalogue from the network, no pickled models, no links
# printed; and no retries of its own, since a request whose reply was lost must be looked up before it is sent again.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_MODEL_CATALOG_URI", "")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
