"""The encoders of an export as ONNX, and their outputs by onnxruntime."""

import contextlib
import io
import logging
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

from data.errors import UserError

# Inputs and outputs of each encoder; the number of rows is free. X-rays of a network that distinguishes lateral ones
# have a second input, "lateral".
ENCODERS = {
    "xray": (("films",), ("cls", "z", "scores")),
    "ct": (("volumes",), ("cls", "z", "scores", "slice_scores", "layers")),
    "report": (("ids", "mask"), ("z",)),
}


def write(
    folder: pathlib.Path, films: np.ndarray, laterals: np.ndarray, volumes: np.ndarray, texts: Sequence[str]
) -> dict[str, pathlib.Path]:
    """`folder`/onnx/{xray,ct,report}.onnx from the export's weights. Raises UserError without the packages it takes."""
    try:
        import onnxruntime  # noqa: F401 (asked for before the work)
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise UserError(f"config.onnx=True needs {error.name}: pip install torch onnxscript onnxruntime") from error
    from unimedi_jax.export import pytorch

    model = pytorch.load(folder)
    files = {}
    (folder / "onnx").mkdir()
    views = {"lateral": torch.from_numpy(laterals)} if model.a["lateral_type"] else {}
    example = {
        "xray": (torch.from_numpy(films), *views.values()),
        "ct": (torch.from_numpy(volumes),),
        "report": model.tokenize(list(texts)),
    }
    for name, (inputs, outputs) in ENCODERS.items():
        inputs = (*inputs, *views) if name == "xray" else inputs
        module = pytorch.Encoder(model, name)
        rows = torch.export.Dim("rows", min=1)
        files[name] = folder / "onnx" / f"{name}.onnx"
        # The exporter prints its steps and warns of its own deprecations.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                example[name],
                str(files[name]),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(({0: rows},) * len(inputs),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    return files


def outputs(
    files: dict[str, pathlib.Path],
    folder: pathlib.Path,
    films: np.ndarray,
    laterals: np.ndarray,
    volumes: np.ndarray,
    texts: Sequence[str],
) -> dict[str, np.ndarray]:
    """Outputs of onnxruntime, by the names of `parity`."""
    import onnxruntime

    from unimedi_jax.export import pytorch

    ids, mask = (x.numpy() for x in pytorch.load(folder).tokenize(list(texts)))
    arrays = {"films": films, "lateral": laterals, "volumes": volumes, "ids": ids, "mask": mask}
    result: dict[str, np.ndarray] = {}
    for name, (_, names) in ENCODERS.items():
        session = onnxruntime.InferenceSession(str(files[name]), providers=["CPUExecutionProvider"])
        values = session.run(list(names), {one.name: arrays[one.name] for one in session.get_inputs()})
        result |= {f"{name}/{k}": np.asarray(v, np.float32) for k, v in zip(names, values, strict=True)}
    return result


@contextlib.contextmanager
def _quiet():
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
