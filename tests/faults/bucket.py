"""The campaign's bucket: python -m tests.faults --bucket --rounds 50

The toy's workdir lies in a bucket of a server on loopback. Its answers come through a proxy that makes some slow, 503,
cut short or reset, and every start is on one of two machines, each with a cache of its own. A round is one start with
injuries: a signal, an object of the newest checkpoint that is flipped, cut, emptied or gone, or both.
"""

import collections
import contextlib
import pathlib
import random
import sys
import time

from data.buckets import mirror
from data.buckets.store import Store
from data.errors import UserError
from tests import buckets
from tests.clouds.proxy import Proxy
from tests.faults import __main__ as usual
from tests.faults import injuries

SHARE = 0.03  # of what is sent to the server meets a fault
ADDRESS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
OBJECT_INJURIES = {"flip an object": injuries.flip, "cut an object": injuries.cut, "empty an object": injuries.empty}


class Place:
    """A bucket, reached by a run through the proxy and by the campaign directly."""

    def __init__(self, scheme: str, variables: dict[str, str], folder: pathlib.Path, proxy: Proxy) -> None:
        self.scheme, self._variables, self._folder = scheme, variables, folder
        self._bad = variables | {ADDRESS[scheme]: f"http://127.0.0.1:{proxy.port}"}

    def url(self, run: int) -> str:
        return f"{self.scheme}://{buckets.BUCKET}/run{run}"

    def environment(self, machine: int) -> dict[str, str]:
        return self._bad | {"UNIMEDI_CACHE": str(self._folder / f"machine{machine}")}

    def observe(self, run: int, ids: pathlib.Path) -> usual.Observed:
        with buckets.variables(self._variables | {"UNIMEDI_CACHE": str(self._folder / "campaign")}):
            try:
                return usual.observe(mirror.fetch(self.url(run)), ids)
            except UserError:
                names = Store(self.url(run)).list(f"{buckets.BUCKET}/run{run}")
                if any(name.endswith(mirror.MARK) for name in names):
                    raise
                return usual.observe(self._folder / "nothing", ids)  # the lease at most: the run was killed before more

    def injure(self, run: int, rng: random.Random) -> str:
        """Does one to an object of the newest checkpoint, where there are at least two; says which."""
        with buckets.variables(self._variables):
            store, folder = Store(self.url(run)), f"{buckets.BUCKET}/run{run}/checkpoints"
            names = list(store.list(folder))
            steps = {name.removeprefix(f"{folder}/").partition("/")[0] for name in names}
            whole = sorted(
                int(step) for step in steps if f"{folder}/{step}/manifest.json" in names and step.isdecimal()
            )
            if len(whole) < 2:
                return "nothing to injure yet"
            name = rng.choice(sorted(name for name in names if name.startswith(f"{folder}/{whole[-1]}/")))
            kind = rng.choice([*OBJECT_INJURIES, "drop an object"])
            if kind == "drop an object":
                store.remove(name)
            else:
                path = self._folder / "injured"
                path.write_bytes(store.read(name) or b"")
                OBJECT_INJURIES[kind](path, rng)
                store.write(name, path.read_bytes())
            return f"{kind}: {name.removeprefix(folder)}"


def campaign(folder: pathlib.Path, rounds: int, until: float, rng: random.Random) -> tuple[int, int]:
    """Rounds that failed, rounds done; half of the runs in a bucket of each kind."""
    records = folder / "records"
    usual.build(records)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    ids = {"FAULTS_IDS": str(folder / "alone.ids")}
    process = injuries.start(records, folder / "alone", "--config.checkpoint.keep_every=1", **ids, **cache)
    log = process.communicate()[1]
    if process.returncode:
        sys.exit(f"the undisturbed run failed:\n{log}")
    expected = usual.observe(folder / "alone", folder / "alone.ids")

    failed = done = run = ended = 0
    faults: collections.Counter[str] = collections.Counter()
    with contextlib.ExitStack() as stack:
        places = []
        for scheme, serve in buckets.SERVERS.items():
            variables = stack.enter_context(serve())
            port = int(variables[ADDRESS[scheme]].rpartition(":")[2])
            proxy = stack.enter_context(Proxy(port, SHARE, rng.randrange(2**31)))
            places.append((Place(scheme, variables, folder, proxy), proxy))
        while done < rounds and time.monotonic() < until:
            place, _ = places[run % 2]
            moment, name = rng.choice(list(injuries.MOMENTS)), rng.choice(list(injuries.SIGNALS))
            what = place.injure(run, rng) if rng.random() < 0.3 else ""
            numbers = [] if what and rng.random() < 0.3 else injuries.SIGNALS[name]
            own = {"FAULTS_IDS": str(folder / f"run{run}.ids"), **place.environment(rng.randrange(2))}
            if moment == "a save":
                own["FAULTS_SAVE_SECONDS"] = "0.4"
            process = injuries.start(records, place.url(run), **own, **cache)
            code, log = injuries.watch(process, moment, numbers, rng)
            done += 1
            problems = usual.differences(expected, place.observe(run, folder / f"run{run}.ids"), whole=code == 0)
            problems += [f"exit code {code}"] if code not in usual.CODES else []
            problems += ["a traceback"] if "Traceback" in log else []
            failed += bool(problems)
            signals = f"{name} in {moment}" if numbers else "no signal"
            line = f"round {done}: run {run} on {place.scheme}, {what + ', ' if what else ''}{signals}, exit {code}"
            print(f"{line}: {'; '.join(problems) or 'equal'}", flush=True)
            if problems:
                print(usual.excerpt(log), flush=True)
            if code == 0 or problems:
                ended += code == 0
                run += 1
        for place, proxy in places:
            faults.update({f"{place.scheme} {name}": count for name, count in proxy.counts.items()})
    print(f"{ended} runs went to their end; answers that were spoilt: {dict(faults)}")
    return failed, done
