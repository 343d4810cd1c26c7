"""The Python interface, for notebooks and scripts: `run`, `load_study` and `load_model`.

What takes long to load is imported where it is used: MLflow, and matplotlib after a study has run.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.config import StudyFile, load_study_file
from pipeline.home import Home, open_home
from pipeline.results.summary import summarise
from pipeline.results.table import study_table
from pipeline.search.ask_tell import OptunaStudy, Search
from pipeline.search.studies import load_search, warm_start_notes
from pipeline.study.lines import PlainLines
from pipeline.study.reporter import Reporter
from pipeline.workers import cluster_at

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from pipeline.results.notebook import Best, Figure
    from pipeline.study.driver import StudyOutcome
    from pipeline.study.session import Options


def run_study(file: StudyFile, home: Home, options: Options, reporter: Reporter) -> StudyOutcome:
    """Run a study to its total, or resume it, and publish its results.

    Side effects: creates the home, the databases, an experiment, runs and models; downloads an absent data set.
    Called again it adds only what is missing; with a higher total the result is as if that had been asked at once.

    Raises:
        InputError: bad arguments, data or a study that differs from the stored one; nothing was written.
        Interrupted: Ctrl-C or SIGTERM; calling it again resumes the study.
        StudyError: the databases, workers or disk failed; likewise.
    """
    from pipeline.study.session import open_session

    with open_session(file, home, options, reporter) as session:
        from pipeline.results.arrange import arrange
        from pipeline.study.driver import run_to_total

        if not gc.isenabled():  # the command loads the libraries without it, and they are not to be looked through
            gc.freeze()
            gc.enable()
        arrange(session)
        for text in warm_start_notes(session.search) if not session.search.told() else ():
            session.reporter.note(text)
        outcome = run_to_total(session, options)
        from pipeline.results.publish import publish

        return publish(session, file, outcome, options.report)


def replicate_study(
    home: Home, name: str, top: int, seeds: int, epochs: int | None, options: Options, reporter: Reporter
) -> None:
    """Train the best trials of a study again, each with so many other seeds, and publish the new ranking.

    The data and its splits are the same. Side effects: as of `run_study`, of the study's own experiment. Called again
    it adds what is missing: an interrupted call is resumed, and with more trials or seeds the result is as if they had
    been asked at once.

    Args:
        top: how many, the best by the value of their single training, whatever replicates there are.
        seeds: of each; at least two, since one has no spread.
        epochs: for so many, with the schedule stretched, in place of the study's.

    Raises:
        NotFoundError: there is no such study.
        InputError: no trial is complete, bad arguments or data, or the study is being run; nothing was written.
        Interrupted, StudyError: as `run_study`.
    """
    from pipeline.study.replicate import replicated

    with replicated(home, name, top, seeds, epochs, options, reporter) as session:
        from pipeline.results.publish import publish_again

        publish_again(session, options.report)


@dataclass(frozen=True, repr=False)
class Study:
    """A study that has been run, to be looked at. In a notebook it shows itself as its leaderboard."""

    name: str
    home: Home
    _search: Search

    def dataframe(self) -> pd.DataFrame:
        """The summary table, with the columns of ``study export``."""
        from pipeline.results.export import frame

        return frame(study_table(summarise(self._search)))

    def plot(self, kind: str) -> Figure:
        """A figure of the study's page: ``curves``, ``front`` or ``restorations``.

        ``optuna.visualization.matplotlib`` draws others of `optuna`. Raises InputError: an unknown kind, or there is
        nothing to draw yet.
        """
        from pipeline.results.notebook import plot

        return plot(self.home, self._search, kind)

    @property
    def best(self) -> Best:
        """The best trial; NotFoundError if none is complete."""
        from pipeline.results.notebook import best_of

        return best_of(self.home, self._search)

    @property
    def optuna(self) -> OptunaStudy:
        """The study as Optuna has it, for its own plots and questions."""
        return self._search.study

    def __repr__(self) -> str:
        from pipeline.results.export import render
        from pipeline.results.notebook import leaderboard

        summary = summarise(self._search)
        return "\n".join([*summary.answer(), "", render(leaderboard(summary), "md").decode()])

    def _repr_html_(self) -> str:
        from pipeline.results.export import html_fragment
        from pipeline.results.notebook import leaderboard

        return html_fragment(leaderboard(summarise(self._search)))


def run(
    file: str | Path,
    *,
    trials: int | None = None,
    workers: int = 0,
    overrides: Sequence[str] = (),
    name: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    home: str | Path | None = None,
    data_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
    cluster: str | Path | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
) -> Study:
    """Run a study file, or resume it; lines of progress are printed. Raises what `run_study` raises.

    Args:
        file: the TOML file; ``trials`` and ``name`` replace its own.
        workers: processes. The default 0 trains in this process: a notebook, or a script without
            ``if __name__ == "__main__":``, cannot start others.
        overrides: as for ``--set``, such as ``["train.lr=1e-3"]``.
        home, data_dir, tracking_uri, storage, cluster, tls_ca, tls_cert, tls_key: as the command's options.
    """
    from pipeline.study.session import Options

    opened = _home(home, data_dir, tracking_uri, storage)
    study_file = load_study_file(Path(file), overrides, name, trials)
    tls = (Path(path) if path else None for path in (tls_ca, tls_cert, tls_key))
    run_study(study_file, opened, Options(workers, cluster_at(cluster, *tls), device), PlainLines())
    return Study(study_file.config.name, opened, load_search(opened, study_file.config.name))


def load_study(
    name: str,
    *,
    home: str | Path | None = None,
    data_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
) -> Study:
    """A study by its name; NotFoundError if there is none of that name."""
    opened = _home(home, data_dir, tracking_uri, storage)
    return Study(name, opened, load_search(opened, name))


def load_model(
    name: str,
    *,
    alias: str = "champion",
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
) -> nn.Module:
    """A registered model as a torch module: degraded ``[N, 1, h, w]`` in, restored ``[N, 1, H, W]`` out.

    It is on the CPU and in evaluation mode, rebuilt from its weights file, whose sha256 is verified first.

    Raises:
        NotFoundError: no such model or alias.
        TrackingError: its weights are missing, or not those that were promoted.
    """
    from pipeline.tracking.registry import load_champion

    return load_champion(_home(home, None, tracking_uri, storage), name, alias)


def _home(home: str | Path | None, data_dir: str | Path | None, tracking_uri: str | None, storage: str | None) -> Home:
    return open_home(Path(home) if home else None, Path(data_dir) if data_dir else None, tracking_uri, storage)
