"""Who and what is in a built set: pseudonyms of its patients and hashes of its pictures, by split.

Both are salted, so that they say nothing to those without the salt, and sets of one salt can be compared: a patient or
a picture in the training part of one and the test part of another is a leak.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data import pages

FILE = "members.json"  # beside the records of a set; of a run and an export, those of all sets that it was trained on
Members = dict[str, Any]  # {"salt": which, "train": {"patients": [...], "pictures": [...]}, "val": ..., "test": ...}
KINDS = ("patients", "pictures")
PSEUDONYM = re.compile("[0-9a-f]{16}")


def describe(patients: Mapping[str, set[str]], pictures: Mapping[bytes, set[str]], salt: str) -> Members:
    """The members of a set, from the splits of each patient (as the records name it) and of each picture's hash."""
    members: Members = {"salt": _hashed("which salt it is", salt)[:8]}
    named = {_pseudonym(name, salt): splits for name, splits in patients.items()}
    hashed = {_hashed(picture.hex(), salt): splits for picture, splits in pictures.items()}
    for split in sorted({split for splits in (*named.values(), *hashed.values()) for split in splits}):
        kinds = zip(KINDS, (named, hashed), strict=True)
        members[split] = {kind: sorted(key for key, splits in of.items() if split in splits) for kind, of in kinds}
    return members


def training(members: Members) -> Members:
    """What a run that is trained on the set carries: not who is tested."""
    return {key: members[key] for key in ("salt", "train") if key in members}


def shared(trained: Members, tested: Members) -> dict[str, int] | None:
    """How many patients and pictures of one's training part are in the other's test part; None: not comparable."""
    if trained["salt"] != tested["salt"]:
        return None
    train, test = trained.get("train", {}), tested.get("test", {})
    return {kind: len(set(train.get(kind, ())) & set(test.get(kind, ()))) for kind in KINDS}


def read(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's FILE; None where there is none, as in sets and runs of older versions."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes a folder's FILE."""
    pages.write(folder / FILE, json.dumps(content) + "\n")


def _hashed(text: str, salt: str) -> str:
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def _pseudonym(name: str, salt: str) -> str:
    """The same for a patient whether the records hide the name (`privacy.pseudonym`) or keep it."""
    return name if PSEUDONYM.fullmatch(name) else _hashed(name, salt)
