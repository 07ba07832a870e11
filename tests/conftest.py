"""Settings that must stand before jax is imported, and the tiny model most tests share."""

import atexit
import gc
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Tiny models compile far longer than they run. Without its fusion emitters the older compiler takes half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
OLDER = metadata.version("jaxlib").startswith("0.10.")
QUICK = "--xla_cpu_use_fusion_emitters=false" if OLDER else "--xla_cpu_opt_preset=FAST_COMPILE"
# Eight simulated devices on two busy cores keep each other waiting for longer than the 40 s after which XLA aborts.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
# The caller may add flags. Another instruction set rounds differently, once the optimisations use it:
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_cpu_max_isa=AVX2 pytest tests/models
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([QUICK, PATIENT, *os.environ.get("XLA_FLAGS", "").split()]))
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # two would wait for the other test's two
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # broadcasting over a new axis is written out
os.environ["JAX_DEBUG_KEY_REUSE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
if "TESTS_SHARED" not in os.environ:
    # What one process of the suite has compiled or built is there for the others and for those that tests start.
    os.environ["TESTS_SHARED"] = tempfile.mkdtemp(prefix="tests-")
    atexit.register(shutil.rmtree, os.environ["TESTS_SHARED"], ignore_errors=True)
SHARED = pathlib.Path(os.environ["TESTS_SHARED"])
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(SHARED / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(8 << 30)  # with a limit, and only then, files are locked

from jaxtyping import install_import_hook  # noqa: E402

# Before the first import of these modules: their annotations are checked at every call from here on.
CHECKED = ("models", "losses", "selection", "patches")
install_import_hook([f"unimedi_jax.{name}" for name in CHECKED], "beartype.beartype")

import filelock  # noqa: E402
import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from data.build import dataset  # noqa: E402
from data.phantom import source as phantom  # noqa: E402
from unimedi_jax import sharding  # noqa: E402
from unimedi_jax.config.pretraining import ModelConfig  # noqa: E402
from unimedi_jax.models import sizes, towers  # noqa: E402
from unimedi_jax.objectives import base  # noqa: E402
from unimedi_jax.objectives.unimedi import Objective  # noqa: E402

gc.freeze()  # what has been imported stays
gc.set_threshold(50_000, 20, 20)  # traces are many small objects: a tenth of the suite's time went into looking at them
flags.FLAGS(["pytest"])
hypothesis.settings.register_profile("proof", database=None, deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("proof")

ROOT = pathlib.Path(__file__).parent.parent
OBJECTIVE = Objective()
TINY = sizes.Size(width=32, depth=2, heads=4, mlp_width=64)
SETTINGS = dict(
    vision_size="tiny",
    report_size="tiny",
    image_size=64,  # 4 x 4 tokens
    volume_size=(16, 32, 32),
    volume_patch=(4, 16, 16),  # 4 x 2 x 2 tokens
    slices=2,
    slice_size=64,
    embedding=16,
    projection_hidden=32,
    prototypes_cls=24,
    prototypes_patch=16,
    head_hidden=32,
    head_bottleneck=8,
    report_positions=16,
    report_dropout=0.0,
    dtype="float32",
)


LONGEST = ("device_counts", "faults", "processes", "hosts", "test_loop", "export", "compare", "public", "test_unimedi")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: no process is left with one of them when the others have finished."""
    items.sort(key=lambda item: not any(name in item.path.stem for name in LONGEST))


@pytest.fixture(scope="session", autouse=True)
def two_devices():
    """Jobs run on two of the eight simulated devices, each of which costs time of its own, unless told otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding.make_mesh, "__defaults__", (-1, 1, jax.devices()[:2]))
        yield


@pytest.fixture(scope="module")
def eight_devices():
    """Jobs run on all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding.make_mesh, "__defaults__", (-1, 1, None))
        yield


def once(name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """A folder that the first process of the suite to ask for it fills by `make(folder)`. To be read alone."""
    folder, partial = SHARED / name, SHARED / f"{name}.partial"
    with filelock.FileLock(SHARED / f"{name}.lock"):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def records_dir() -> pathlib.Path:
    """A small phantom."""
    source = phantom.source(xrays=40, cts=20, seed=7)
    return once("records", lambda folder: dataset.build(source, data_dir=folder, name="phantom", workers=2))


@pytest.fixture(scope="session")
def wheel() -> pathlib.Path:
    """The project's wheel, built from a copy of what a clone holds."""

    def build(folder: pathlib.Path) -> None:
        clone = folder / "clone"
        for name in ("unimedi_jax", "data", "configs"):
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        for pattern in ("*.py", "*.toml", "*.md", "*.in", "*.txt", "LICENSE"):
            for path in ROOT.glob(pattern):
                shutil.copy(path, clone)
        code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
        shutil.rmtree(clone)

    return next(once("wheel", build).glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel) -> pathlib.Path:
    """A folder for PYTHONPATH with the installed wheel, and its command in `bin/`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    return once("installed", lambda folder: subprocess.run([*pip, "--target", folder, wheel], check=True))


@pytest.fixture(scope="session")
def make_tiny():
    """`make_tiny(**settings)`: UniMedI at width 32, depth 2 (or another `size`), with the settings and heads given."""

    def make(*, size: sizes.Size = TINY, objective=OBJECTIVE, vocab_size: int = 50, **settings) -> towers.UniMedI:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sizes.VISION, "tiny", size)
            patch.setitem(sizes.REPORT, "tiny", size)
            model = towers.build_model(ModelConfig(**SETTINGS | settings), vocab_size)
            return model.clone(head=objective.heads(model))

    return make


@pytest.fixture(scope="session")
def tiny(make_tiny):
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_variables(tiny):
    return jax.jit(lambda: base.init_variables(tiny, OBJECTIVE, jax.random.key(0)))()


@pytest.fixture(scope="session")
def make_batch():
    """`make_batch(model, xrays, cts)`: random pairs in the batch's format."""

    def make(model: towers.UniMedI, xrays: int, cts: int, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        example = towers.example_batch(model)

        def pairs(name: str, rows: int, low: int, high: int) -> dict:
            _, n, v = example[name]["tokens"].shape
            tokens = rng.integers(low, high, (rows, n, v)).astype(example[name]["tokens"].dtype)
            length = rng.integers(3, 9, (rows, 1))
            text = rng.integers(1, model.report.vocab_size, (rows, 8)).astype(np.int32)
            mask = np.arange(8)[None] < length
            part = {"tokens": tokens, "text": np.where(mask, text, 0), "text_mask": mask}
            return jax.device_put(part)

        batch = {}
        if xrays:
            batch["xray"] = pairs("xray", xrays, 0, 256)
        if cts:
            batch["ct"] = pairs("ct", cts, -1000, 1000)
        return batch

    return make


@pytest.fixture(scope="session")
def random_tree():
    """`random_tree(tree)`: noise in the same shapes, so that zero biases and unit scales cannot hide.

    `around` adds so much of the tree itself, as of a student for a teacher that disagrees. Nothing compiles for it.
    """

    def make(tree, scale: float = 0.3, around: float = 0.0):
        rng = np.random.default_rng(0)

        def draw(leaf):
            noise = scale * rng.standard_normal(leaf.shape)
            return (around * np.asarray(leaf) + noise if around else noise).astype(np.float32)

        return jax.device_put(jax.tree.map(draw, tree))  # jnp.asarray would compile a program for every shape

    return make


@pytest.fixture(scope="session")
def random_params(random_tree):
    """`random_params(model, objective)`: weights far from their initialisation, and nothing to compile for them."""

    def make(model: towers.UniMedI, objective=OBJECTIVE):
        shapes = jax.eval_shape(lambda: base.init_variables(model, objective, jax.random.key(0)))
        return random_tree(shapes["params"])

    return make
