"""What the fuzzer does to folders of strangers: sets, and the files of exports; and to text headers, line by line.

Opening one gives what it holds or one line, and never imports a module that a file names or reads outside the folder.
"""

import itertools
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from configs import pretrain
from data import contract, json_files, members
from data.build import dataset
from data.errors import UserError
from data.phantom import source as phantom
from data.reports import tokenizer
from unimedi_jax.config import loaded
from unimedi_jax.input import records

PLANTED = "planted_by_the_fuzzer"
SET, EXPORT = "set/", "export/"
XRAYS = "fuzzed/xray/1.0.0/"
OF_SET = (f"{XRAYS}features.json", f"{XRAYS}dataset_info.json", "fuzzed/contract.json", "fuzzed/members.json")
SHARD = f"{XRAYS}xray-train.array_record-00000-of-00001"
LEAVES = (0, -1, 10**9, 10**400, 1e308, "", "../../outside", f"{PLANTED}.Feature", "\ud800", "$", None, True, [], {})
# Depths that Python's own parser allows, barely allows and refuses.
DEEP = {f"deep {levels}": '{"a":[' * levels + "1" + "]}" * levels for levels in (15, 150, 450, 50_000)}


def seeds() -> dict[str, bytes]:
    """Files of a small set and of an export, by kind and path; all files of both."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset.build(phantom.source(xrays=10, cts=0), Path(folder), "fuzzed", workers=1)
        for path in (Path(folder) / "fuzzed").rglob("*"):
            if path.is_file():
                files[SET + str(path.relative_to(folder))] = path.read_bytes()
        tokenizer.save(tokenizer.train(["A nodule, a nodule.", "No nodule."]), Path(folder) / "report")
        for path in (Path(folder) / "report").iterdir():
            files[f"{EXPORT}report/{path.name}"] = path.read_bytes()
    facts = {"format": 1, "network": "student", "step": 7, "versions": {"jax": "1"}}
    facts["contracts"] = {"fuzzed": json.loads(files[f"{SET}fuzzed/contract.json"])}
    facts["config"] = json.loads(pretrain.get_config("demo,unimedi").to_json_best_effort())
    files[f"{EXPORT}unimedi.json"] = json.dumps(facts).encode()
    arrays = {name: np.ones((3, 4), np.float32) for name in ("vision.cls_token", "vision.norm.weight")}
    files[f"{EXPORT}unimedi.safetensors"] = safetensors.numpy.save(arrays)
    return files


def mutated(files: dict[str, bytes]) -> list[str]:
    """The files that are worth a mutation."""
    of_set = [SET + name for name in (*OF_SET, SHARD)]
    return [*of_set, *(name for name in files if name.startswith(EXPORT))]


def structure(data: bytes, rng: random.Random) -> bytes:
    """JSON of which a few parts are something else: a huge number, a path, the name of a class, deep lists, nothing."""
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = list(_places(content))
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            holder[key] = rng.choice(list(DEEP))
        elif kind == 1:
            holder[key] = [holder[key]] * rng.choice((2, 1000))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(("../x", "", "a/b", PLANTED, "x" * 5000))] = holder.pop(key)
        elif kind == 3 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = rng.choice(LEAVES)
        if not content:
            break
    text = json.dumps(content)
    for mark, nested in DEEP.items():
        text = text.replace(f'"{mark}"', nested)
    return text.encode("utf-8", "surrogatepass")


def _places(content: Any) -> Any:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield content, key
        yield from _places(value)


def header_line(data: bytes, rng: random.Random) -> bytes:
    """A text header (NRRD, MetaImage) of which one line is doubled, respelt, or names another file or size."""
    lines = data.split(b"\n")
    ends = itertools.takewhile(lambda line: all(32 <= byte < 127 for byte in line), lines)
    count = max(len(list(ends)), 2)
    at = rng.randrange(1, count)
    line = lines[at]
    mark = b"=" if b"=" in line else b":"
    name, _, value = line.partition(mark)
    huge = b"1000000000 1000000000 1000000000"
    other = [
        line.swapcase(),
        line + b"\n" + line,
        name + mark + b" ../outside/secret.raw",
        name + b":=" + value,
        name.upper() + mark + b" " + huge,
        name + mark + b" " + huge,
        b"data file: ../outside/secret.raw\n" + line,
        b"ElementDataFile = ../outside/secret.raw\n" + line,
        b"DimSize = " + huge + b"\n" + line,
        b" " + line,
        name + mark + mark + value,
    ]
    return b"\n".join([*lines[:at], rng.choice(other), *lines[at + 1 :]])


def open_folder(name: str, data: bytes, files: dict[str, bytes], folder: Path) -> str:
    """The verdict on a set or an export of which the file `name` has other bytes."""
    kind = SET if name.startswith(SET) else EXPORT
    for path, content in files.items():
        if path.startswith(kind):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data if path == name else content)
    try:
        (_open_set if kind == SET else _open_export)(folder / kind)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            raise AssertionError(f"a message of several lines, or long: {str(error)[:100]}") from error
        return "refused"
    return "accepted"


def _open_set(folder: Path) -> None:
    one = records.open_set(folder, "fuzzed")
    if (known := members.read(one.folder)) is not None:
        members.training(known)
    for split in ("train", "val", "test"):
        if one.size("xray", split):
            for record in one.source("xray", split):
                assert record["id"] is not None


def _open_export(folder: Path) -> None:
    from unimedi_jax.convert import weights  # imports jax, which the readers' cases do without

    facts = json_files.read_object(folder / "unimedi.json", "export again")
    loaded.check(facts.get("config"), "the export")
    sets = facts.get("contracts")
    if not isinstance(sets, dict) or any(contract.flaw(one, ("labels", "records")) for one in sets.values()):
        raise UserError("no contracts")
    words = tokenizer.load(folder / "report")
    ids, mask = tokenizer.encode(words, ["No nodule.", ""], 8)
    assert ids.shape == mask.shape == (2, 8)
    weights.read(folder / "unimedi.safetensors")


def watch(outside: Path) -> Callable[[], list[str]]:
    """Notes from now on what this process opens in a folder that is nobody's business, and what it imports or runs."""
    seen: list[str] = []
    forbidden = str(outside.resolve())

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
            if os.path.realpath(path).startswith(forbidden) and "r" in str(arguments[1] or "r"):
                seen.append(f"opened {path}")
        elif event in ("os.system", "subprocess.Popen"):
            seen.append(f"{event} {arguments[0]}")

    class Finder:
        """Asked for every module that is imported, `importlib.import_module` included, which no audit event tells."""

        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name.startswith(PLANTED):
                seen.append(f"import {name}")

    sys.addaudithook(hook)
    sys.meta_path.insert(0, Finder)
    return lambda: [seen.pop() for _ in range(len(seen))]
