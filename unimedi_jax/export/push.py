"""An export to the Hugging Face hub: what its list of checksums names and nothing else, private unless asked."""

import json
import pathlib

import huggingface_hub

from data.checks import audit
from data.errors import UserError
from unimedi_jax.convert import checksums, hub
from unimedi_jax.export import repository
from unimedi_jax.inference import pretrained

UNSEARCHED = "none"


def check_settings(name: str, source: str) -> None:
    """Whether a name can be a model of the hub, and the source is there. Raises UserError."""
    if not hub.ID.fullmatch(name) or "@" in name:
        raise UserError(f"config.push={name} is not a name on the hub, which has the form org/name")
    if source not in ("", UNSEARCHED) and not pathlib.Path(source).expanduser().is_file():
        raise UserError(f"config.source {source} does not exist: it is the CSV that the set was built from")


def push(folder: pathlib.Path, name: str, *, source: str, public: bool, dry_run: bool) -> None:
    """Uploads an export as the model `name`; with `dry_run` it prints what would go up and sends nothing.

    `source` is the CSV whose identifiers and reports must not be in the export. It may be left out of a network that
    learnt from the phantom alone.

    Raises:
        UserError: identifiers or report text are in the export, nobody has looked for them, a file was changed since
            it was exported, the repository is public and `public` is not asked for, or the hub refuses.
    """
    files = listed(folder)
    checksums.check(folder, files)
    search(folder, source)
    size, visibility = sum(path.stat().st_size for path in files), "public" if public else "private"
    print(f"{'would upload' if dry_run else 'uploading'} to {name}, {visibility}: {size:,} bytes")
    for path in files:
        print(f"{path.stat().st_size:14,}  {path.relative_to(folder).as_posix()}")
    for path in sorted(set(_files(folder)) - set(files)):
        print(f"     left here  {path.relative_to(folder).as_posix()}: not in {checksums.FILE}")
    if not dry_run:
        print(f"uploaded: {_upload(folder, files, name, public)}")


def listed(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of an export that its checksums name, and these. Raises UserError: there are none, or one is gone."""
    if not (folder / checksums.FILE).is_file():
        raise UserError(f"{folder} has no {checksums.FILE}: export again")
    lines = (folder / checksums.FILE).read_text(encoding="utf-8").splitlines()
    names = {line.partition("  ")[2] for line in lines}
    files = [path for path in _files(folder) if path.relative_to(folder).as_posix() in names | {checksums.FILE}]
    if missing := names - {path.relative_to(folder).as_posix() for path in files}:
        raise UserError(f"{folder} lacks {min(missing)}, which its {checksums.FILE} names: export again")
    return files


def search(folder: pathlib.Path, source: str) -> None:
    """Looks for identifiers and report text of a manifest in an export.

    Raises:
        UserError: there are some, or no manifest is named and one is needed.
    """
    if source == UNSEARCHED:
        print("warning: not searched for identifiers, as config.source=none asks")
        return
    if not source:
        facts = json.loads((folder / pretrained.FACTS).read_text(encoding="utf-8"))
        if repository.default_licence(facts["contracts"]) == repository.UNKNOWN:
            raise UserError(
                "config.source is empty: name the CSV that the set was built from, so that the export is searched for "
                f"its identifiers and reports before it is uploaded, or give {UNSEARCHED} to upload it unsearched"
            )
        return
    names, runs, left_out = audit.needles(pathlib.Path(source).expanduser())
    if findings := list(audit.search(folder, names, runs)):
        where, what = findings[0]
        raise UserError(f"nothing was uploaded: {what} is in {where}, and more in {len(findings) - 1} other places")
    print(f"searched for {len(names)} identifiers and {len(runs)} runs of words of {source}: nothing was found")
    for what, count in sorted(left_out.items()):
        print(f"not searched for: {count} {what}")


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _upload(folder: pathlib.Path, files: list[pathlib.Path], name: str, public: bool) -> str:
    api = huggingface_hub.HfApi()
    additions = [huggingface_hub.CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    try:
        url = api.create_repo(name, private=not public, exist_ok=True)
        shown = not api.model_info(name).private
        if public or not shown:
            api.create_commit(name, additions, commit_message="UniMedI, exported by unimedi_jax")
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise UserError(f"nothing was published as {name}: {hub.reason(error)}") from error
    if shown and not public:
        raise UserError(f"{name} is public: nothing was uploaded; choose another name, or set config.public=True")
    return str(url)
