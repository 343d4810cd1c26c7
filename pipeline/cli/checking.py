"""The commands that check what was recorded: ``reproduce``, ``doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.program import RunArgument, command
from pipeline.cli.tables import counted
from pipeline.errors import StudyError
from pipeline.home import Home

SHOWN = 10  # differing figures that `reproduce` prints


@command()
def reproduce(home: Home, run_id: RunArgument) -> None:
    """Train a recorded trial again and compare every metric."""
    from pipeline.results.reproduce import reproduce as train_again

    done = train_again(home, run_id)
    if done.reconstructed:
        print("the run was lost and rebuilt by doctor: for most epochs it has the objective only")
    if done.identical:
        print(f"identical: {done.compared} figures of {done.epochs} epochs of {done.run}")
        if done.failure is not None:
            print(f"it failed as recorded: {done.failure.recorded}")
        return
    differ = f"{len(done.differences)} of {done.compared} figures of {done.run} differ"
    print(differ + (":" if done.differences else ""))
    for d in done.differences[:SHOWN]:
        print(f"  epoch {d.epoch} {d.metric}: recorded {d.recorded}, now {d.now}")
    if done.failure is not None:
        print(f"  failure: recorded {done.failure.recorded!r}, now {done.failure.now!r}")
    for line in done.surroundings or ["versions, hardware and code are the same as recorded"]:
        print(f"  {line}")
    raise StudyError(f"{done.run} was not reproduced")


@command()
def doctor(
    home: Home,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
) -> None:
    """Find where Optuna, MLflow, checkpoints and artifacts disagree."""
    from pipeline.study.doctor import examine_home
    from pipeline.study.reporter import PlainLines

    found, repairable, repaired = 0, 0, 0
    for name, finding in examine_home(home, PlainLines()):
        found += 1
        repairable += finding.repair is not None
        if repair and finding.repair is not None:
            finding.repair()
            repaired += 1
            print(f"{name}: repaired: {finding.text}")
        else:
            print(f"{name}: {finding.text}" + ("" if finding.repair else " (cannot be repaired here)"))
    if not found:
        print(f"{home.path}: all is well")
    elif repaired < found:
        which = "them" if repairable == found else f"{repairable} of them"
        hint = f"; `study doctor --repair` repairs {which}" if repairable and not repair else ""
        raise StudyError(counted(found - repaired, "finding") + hint)
