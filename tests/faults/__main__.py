"""The fault campaign: python -m tests.faults --rounds 100

Runs a toy pre-training undisturbed, then again and again with one random injury a round until it ends, and holds every
round against the undisturbed run: metrics, record ids of every batch, hashes of every checkpoint. Every third round is
one of build, embed, export and evaluate instead (`tests/faults/jobs.py`). Exit code 1 where one differs, where a
traceback was shown, a process is left, or where the exit code is not one of those documented.
"""

import argparse
import collections
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from tests.faults import injuries, jobs

CODES = {0, 2, 75, -9, -15, -2, 130, 143}  # ended; needs an action; resumable; killed; asked before anyone listened


def main() -> None:
    """Runs the campaign, a line each round, a table at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", action="store_true", help="no round of training but the undisturbed one")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begins no round after so many minutes")
    parser.add_argument("--bucket", action="store_true", help="the workdir in buckets on loopback, by bad lines")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        rng = random.Random(options.seed)
        if options.bucket:
            from tests.faults import bucket

            failed, done = bucket.campaign(pathlib.Path(folder), options.rounds, until, rng)
        else:
            failed, done = campaign(pathlib.Path(folder), options.rounds, until, rng, every=1 if options.jobs else 3)
    print(f"rounds {done}, equal to the undisturbed run {done - failed}, not equal {failed}")
    sys.exit(1 if failed else 0)


def campaign(folder: pathlib.Path, rounds: int, until: float, rng: random.Random, *, every: int = 3) -> tuple[int, int]:
    """Rounds that failed, rounds done; one of `every` is of a job beside training."""
    records = folder / "records"
    build(records)
    shutil.copytree(records, folder / "spare")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    alone = folder / "alone"
    process = injuries.start(
        records, alone, "--config.checkpoint.keep_every=1", FAULTS_IDS=str(folder / "alone.ids"), **cache
    )
    log = process.communicate()[1]
    if process.returncode:
        sys.exit(f"the undisturbed run failed:\n{log}")
    expected = observe(alone, folder / "alone.ids")
    print(
        f"undisturbed: {len(expected.lines)} lines, {len(expected.ids)} batches, checkpoints {sorted(expected.hashes)}"
    )

    beside = jobs.Jobs(folder, folder / "spare", alone, cache)
    print("undisturbed: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in beside.seconds.items()))
    volume = Volume(folder / "volume")
    failed = done = run = ended = 0
    causes: collections.Counter[str] = collections.Counter()
    try:
        while done < rounds and time.monotonic() < until:
            if done % every == 0:
                done += 1
                failed += bool(job_round(done, beside, volume, causes, rng))
                continue
            workdir, ids = volume.path / f"run{run}", folder / f"run{run}.ids"
            name, what, code, log = one_round(records, folder / "spare", workdir, ids, volume, cache, rng)
            done += 1
            problems = differences(expected, observe(workdir, ids), whole=code == 0)
            if code not in CODES:
                problems.append(f"exit code {code}")
            if "Traceback" in log:
                problems.append("a traceback")
            causes[name] += 1
            failed += bool(problems)
            print(
                f"round {done}: run {run}, {name} ({what}), exit {code}: {'; '.join(problems) or 'equal'}", flush=True
            )
            if problems:
                print(excerpt(log), flush=True)
            if code == 0 or problems:
                ended += code == 0
                run += 1
                shutil.rmtree(workdir, ignore_errors=True)
    finally:
        volume.close()
    print(f"{ended} runs went to their end; injuries: {dict(causes)}")
    return failed, done


def excerpt(log: str) -> str:
    """What shows why a round failed: the lines about its first traceback, or else the last ones."""
    lines = log.strip().splitlines()
    first = next((number for number, line in enumerate(lines) if "Traceback" in line), None)
    shown = lines[-12:] if first is None else lines[max(first - 3, 0) : first + 20]
    return "    " + "\n    ".join(shown)


def job_round(
    number: int, beside: jobs.Jobs, volume: "Volume", causes: "collections.Counter[str]", rng: random.Random
) -> list[str]:
    """A round of a job beside training, and its line. Returns what was wrong."""
    place = volume.path / f"job{number}"
    name, injury, code, problems, log = beside.round(place, volume, rng)
    if code not in CODES:
        problems.append(f"exit code {code}")
    causes[injury] += 1
    print(f"round {number}: {name}, {injury}, exit {code}: {'; '.join(problems) or 'equal'}", flush=True)
    if problems:
        print(excerpt(log), flush=True)
    jobs.forget(place)
    return problems


def one_round(
    records: pathlib.Path,
    spare: pathlib.Path,
    workdir: pathlib.Path,
    ids: pathlib.Path,
    volume: "Volume",
    cache: dict[str, str],
    rng: random.Random,
) -> tuple[str, str, int, str]:
    """One injury, one start of the command. Returns the injury, its particulars, exit code and log."""
    kind = rng.choice(["signal"] * 4 + ["checkpoint"] * 3 + ["records", "disk", "clock"])
    environment, moment, numbers = {"FAULTS_IDS": str(ids)} | cache, "training", []
    name = what = ""
    if kind == "signal" or (kind == "checkpoint" and rng.random() < 0.7):
        moment = rng.choice(list(injuries.MOMENTS))
        name = rng.choice(list(injuries.SIGNALS))
        numbers, what = injuries.SIGNALS[name], f"in {moment}"
        if moment == "a save":
            environment["FAULTS_SAVE_SECONDS"] = "0.4"
    if kind == "checkpoint":
        injury = rng.choice(injuries.CHECKPOINT_INJURIES)
        what = f"{injuries.injure_checkpoint(workdir, injury, rng)}{', then ' + name + ' ' + what if name else ''}"
        name = injury
    elif kind == "records":
        name = rng.choice(list(injuries.FILE_INJURIES))
        what = injuries.injure_records(records, name, rng)
        name += " of the records"
    elif kind == "disk":
        name = rng.choice(volume.injuries)
        volume.injure(name, environment, rng)
        what = "put right afterwards"
    elif kind == "clock":
        name, environment["FAULTS_CLOCK"] = "a wrong clock", "1"
    readers = rng.choice([0, 0, 2])
    process = injuries.start(records, workdir, f"--config.input.processes={readers}", **environment)
    code, log = injuries.watch(process, moment, numbers, rng)
    if kind == "records":
        shutil.rmtree(records)
        shutil.copytree(spare, records)
    volume.heal()
    return name, what, code, log


class Volume:
    """Where the runs lie: a small file system of its own where mounting is permitted, else a folder."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "faults", str(path)]
        self.mounted = shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True).returncode
        self.injuries = ["writing fails"] + (["full disk", "read-only disk"] if self.mounted else [])

    def injure(self, name: str, environment: dict[str, str], rng: random.Random) -> None:
        if name == "writing fails":
            environment["FAULTS_FULL_AT"] = str(rng.randint(1, 3))
        elif name == "read-only disk":
            subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)
        else:
            room = shutil.disk_usage(self.path).free - rng.choice([0, 10_000, 300_000, 60_000_000])
            with (self.path / "filler").open("wb") as filler:
                filler.write(bytes(max(room, 0)))

    def heal(self) -> None:
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(self.path)], check=True)
        (self.path / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=True)


Observed = collections.namedtuple("Observed", "lines ids hashes")


def observe(workdir: pathlib.Path, ids: pathlib.Path) -> Observed:
    """Lines of the metrics without clocks; step -> every set of ids that it had; step -> hashes of its checkpoint."""
    lines = []
    if (workdir / "metrics.jsonl").exists():
        for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # torn by a kill: the next start cuts it off, and the end of the run tells
            lines.append({k: v for k, v in values.items() if k != "time" and not k.startswith("speed/")})
    batches = collections.defaultdict(list)
    for line in ids.read_text(encoding="utf-8").splitlines() if ids.exists() else []:
        try:
            step, ids_of_step = json.loads(line)
        except ValueError:
            continue
        batches[step].append(ids_of_step)
    hashes = {}
    for path in (workdir / "checkpoints").glob("*/manifest.json"):
        if not path.parent.name.isdecimal():
            continue  # put aside
        try:
            hashes[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))["arrays"]
        except (ValueError, KeyError):
            continue  # this round's injury
    return Observed(lines, dict(batches), hashes)


def differences(expected: Observed, observed: Observed, *, whole: bool) -> list[str]:
    """What differs between the undisturbed run and another, so far, or at its end."""
    problems = []
    if (whole and observed.lines != expected.lines) or observed.lines != expected.lines[: len(observed.lines)]:
        problems.append(f"metrics: {len(observed.lines)} lines, {len(expected.lines)} expected")
    if whole and observed.ids.keys() != expected.ids.keys():
        problems.append("batches were left out")
    problems += [f"records of step {k}" for k, v in observed.ids.items() if any(one != expected.ids[k][0] for one in v)]
    stops = {step: v for step, v in observed.hashes.items() if step in expected.hashes}
    problems += [f"arrays of checkpoint {step}" for step, v in stops.items() if v != expected.hashes[step]]
    if whole and max(map(int, observed.hashes)) != max(map(int, expected.hashes)):
        problems.append("no last checkpoint")
    return problems


def build(records: pathlib.Path) -> None:
    """A phantom set of 40 films and 30 scans."""
    command = [sys.executable, "main.py", "--config=configs/build.py:phantom", f"--config.data_dir={records}"]
    subprocess.run(
        [*command, "--config.xrays=40", "--config.cts=30"], cwd=injuries.ROOT, check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
