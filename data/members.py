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

from data import json_files, pages
from data.errors import UserError

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
    """The content of a folder's FILE; None where there is none, as in sets and runs of older versions.

    Raises:
        UserError: it is damaged.
    """
    path, advice = folder / FILE, "bring back a copy of it"
    if not path.is_file():
        return None
    content = json_files.read_object(path, advice)
    if not (_are_members(content) or all(map(_are_members, content.values()))):
        raise UserError(f"{path} is damaged, it lists no members of sets: {advice}")
    return content


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes a folder's FILE."""
    pages.write(folder / FILE, json.dumps(content) + "\n")


def _are_members(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("salt"), str):
        return False
    kinds = [kind for split, part in content.items() if split != "salt" for kind in _lists(part)]
    return all(isinstance(kind, list) and all(isinstance(key, str) for key in kind) for kind in kinds)


def _lists(part: Any) -> list[Any]:
    return list(part.values()) if isinstance(part, dict) else [None]


def _hashed(text: str, salt: str) -> str:
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def _pseudonym(name: str, salt: str) -> str:
    """The same for a patient whether the records hide the name (`privacy.pseudonym`) or keep it."""
    return name if PSEUDONYM.fullmatch(name) else _hashed(name, salt)
