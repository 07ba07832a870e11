"""Folders of the Hugging Face hub, from its cache where they are in it."""

import pathlib

from data.errors import UserError

WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.ckpt")  # the safest kind first; models may come in several
BESIDE = ["*.json", "vocab.txt", "merges.txt"]


def snapshot(name: str, revision: str | None = None) -> pathlib.Path:
    """The local folder of a model on the hub, with its settings and weights of the safest kind.

    Args:
        name: "organisation/model".
        revision: a branch, tag or commit; None: the newest.

    Raises:
        UserError: no such model, or the hub cannot be reached and the cache does not have it.
    """
    import huggingface_hub

    asked = {"repo_id": name, "revision": revision}
    try:
        cached = pathlib.Path(huggingface_hub.snapshot_download(**asked, local_files_only=True))
        if any(path for pattern in WEIGHTS for path in cached.glob(pattern)):
            return cached
    except (OSError, ValueError):  # not in the cache, or no model's name: what the hub says of it follows
        pass
    try:
        info = huggingface_hub.model_info(name, revision=revision, timeout=10)
        listed = [pathlib.PurePath(sibling.rfilename) for sibling in info.siblings or ()]
        kind = next((kind for kind in WEIGHTS if any(p.match(kind) and len(p.parts) == 1 for p in listed)), None)
        if kind is not None:
            return pathlib.Path(huggingface_hub.snapshot_download(**asked, allow_patterns=[*BESIDE, kind]))
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise UserError(
            f"no model '{name}': no such folder, and the Hugging Face hub and its cache do not have it or cannot be "
            f"reached ({type(error).__name__}); download it elsewhere and name its folder"
        ) from error
    raise UserError(f"the hub's '{name}' has no weights of a kind that is read: {', '.join(WEIGHTS)}")
