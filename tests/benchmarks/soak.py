"""A study that is killed again and again at random moments must end with the numbers of an uninterrupted one.

    python tests/benchmarks/soak.py [--kills 50] [--workers 2] [--seed 0]

Runs a small study and, at random moments, kills its driver (SIGKILL), kills one of its workers, or interrupts it
(SIGINT). It is started again each time, with more trials whenever it has finished, until the given number of kills is
reached. Then the same study runs undisturbed in a second home. Prints the kills and compares every number; the exit
code is 1 if any differs.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

STUDY = """
name = "soak"
dataset = "mnist-5k"

[degrade]
kind = "gaussian"
sigma = 0.5

[budget]
trials = 4
epochs = 3

[pruner]
name = "successive_halving"

[model]
depth = [1, 2]
width = 32
bottleneck = { low = 4, high = 32, log = true }
activation = ["relu", "leaky_relu"]
negative_slope = { low = 0.01, high = 0.3 }

[train]
loss = ["bce", "mse"]
optimizer = ["adam", "sgd"]
lr = { by = "optimizer", sgd = { low = 0.03, high = 3.0, log = true }, default = { low = 1e-3, high = 1e-2 } }
batch_size = 256
"""
UNCOMPARED = ("run_id", "started", "duration_s")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "pipeline", *map(str, words)]


def table(home: Path, folder: Path) -> list[dict[str, str]]:
    """The study's export without the columns that may differ."""
    file = folder / f"{home.name}.csv"
    subprocess.run(command("export", "soak", "-o", file, "--home", home), check=True, stdout=subprocess.DEVNULL)
    with file.open() as lines:
        return [{key: value for key, value in row.items() if key not in UNCOMPARED} for row in csv.DictReader(lines)]


def workers_of(driver: int) -> list[int]:
    """The worker processes that Dask started for this driver."""
    listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(driver)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listing.splitlines() if "spawn_main" in line]


def kill(driver: subprocess.Popen[bytes], random_source: random.Random) -> str | None:
    """Kill or interrupt a running study at random; what was done, or None if nothing was running."""
    kind = random_source.choice(["driver killed", "worker killed", "interrupted"])
    if driver.poll() is not None:
        return None
    if kind == "worker killed":
        workers = workers_of(driver.pid)
        if not workers:
            return None
        os.kill(random_source.choice(workers), signal.SIGKILL)
        return kind
    driver.send_signal(signal.SIGKILL if kind == "driver killed" else signal.SIGINT)
    driver.wait()
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_source, survived, trials, started = random.Random(arguments.seed), Counter[str](), 4, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file, killed, undisturbed = folder / "soak.toml", folder / "killed", folder / "undisturbed"
        file.write_text(STUDY)

        def start(home: Path) -> subprocess.Popen[bytes]:
            words = ("run", file, "--home", home, "--trials", trials, "--workers", arguments.workers)
            quiet = subprocess.DEVNULL
            return subprocess.Popen(command(*words), stdout=quiet, stderr=quiet, start_new_session=True)

        while survived.total() < arguments.kills:
            driver = start(killed)
            deadline = time.monotonic() + random_source.uniform(3, 25)
            while time.monotonic() < deadline and driver.poll() is None:
                time.sleep(0.05)
            done = kill(driver, random_source)
            if done:
                survived[done] += 1
            if done in (None, "worker killed") and driver.wait() == 0:
                trials += 2
            print(f"\r{survived.total()} kills, {trials} trials", end="", flush=True)
        for home in (killed, undisturbed):
            if start(home).wait() != 0:
                sys.exit(f"\nthe study in {home.name} did not finish")
        doctor = subprocess.run(command("doctor", "--home", killed), capture_output=True, text=True)
        same = table(killed, folder) == table(undisturbed, folder)
    print(f"\n{dict(survived)} in {time.monotonic() - started:.0f} s over a study of {trials} trials")
    print(f"numbers {'identical to' if same else 'DIFFERENT from'} the uninterrupted study's; {doctor.stdout.strip()}")
    sys.exit(0 if same and doctor.returncode == 0 else 1)


if __name__ == "__main__":
    main()
