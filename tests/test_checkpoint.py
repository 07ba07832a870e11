"""Checkpoints: every injury to every file is detected and named, and the checkpoint before it is used."""

import asyncio
import contextlib
import gc
import pathlib
import shutil
import sys
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from data.errors import UserError
from unimedi_jax import checkpoint, checkpoint_arrays, checkpoint_reading, fingerprint, integrity, sharding

# What Orbax leaves lying when it fails.
pytestmark = [
    pytest.mark.usefixtures("eight_devices"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
META = {"config": {"steps": 9}, "versions": {"jax": "1"}}


class Position:
    """A data iterator at a batch."""

    def __init__(self, at: int) -> None:
        self.at = at

    def get_state(self) -> dict[str, int]:
        return {"next_index": self.at}


def make(step: int) -> dict:
    rng = np.random.default_rng(step)
    return {
        "params": {
            "kernel": jnp.asarray(rng.standard_normal((64, 16)), jnp.float32),
            "half": jnp.ones(7, jnp.bfloat16),
        },
        "step": jnp.int32(step),
        "key": jax.random.key(step),
    }


def abstract() -> dict:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), make(0))


def write(workdir: pathlib.Path, *steps: int, scores: dict[int, float] | None = None, **settings) -> pathlib.Path:
    with checkpoint.Checkpoints(workdir, **settings) as checkpoints:
        for step in steps:
            checkpoints.save(step, make(step), Position(step), META, scores)
        checkpoints.wait()
    return workdir / "checkpoints"


def read(workdir: pathlib.Path) -> checkpoint.Restored | None:
    with checkpoint.Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(abstract())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """A workdir with checkpoints 2 and 4."""
    workdir = tmp_path_factory.mktemp("saved")
    write(workdir, 2, 4)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path) -> pathlib.Path:
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """What other tests have left is looked at once, not after each test of this file: seconds a time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def swept():
    yield
    gc.collect()  # or the warnings would come up in somebody else's test


def files(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
    return sorted(path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file())


def same(restored: checkpoint.Restored, step: int) -> bool:
    return (
        restored.step == step
        and restored.position == {"next_index": step}
        and restored.meta == META
        and fingerprint.arrays(restored.state) == fingerprint.arrays(make(step))
        and all(np.array_equal(a, b) for a, b in zip(*map(_plain, (restored.state, make(step))), strict=True))
    )


def _plain(state: dict) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state | {"key": jax.random.key_data(state["key"])})]


def test_what_was_saved_comes_back(workdir):
    assert same(read(workdir), 4)
    assert checkpoint_reading.meta(workdir) == META


def test_a_checkpoint_whose_keys_orbax_recorded_comes_back(tmp_path, monkeypatch):
    """As they were written before: with Orbax's own note of which arrays are keys."""
    json = ocp.JsonCheckpointHandler
    handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler(), data=json(), meta=json())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_arrays, "handler", lambda: handler)
        patch.setattr(checkpoint_arrays, "key_data", lambda leaf: leaf)
        root = write(tmp_path, 4)
    assert '"ext_metadata": {' in next((root / "4" / "state" / "array_metadatas").iterdir()).read_text()
    assert same(read(tmp_path), 4)


def test_no_program_is_compiled_to_cut_small_arrays(tmp_path, caplog):
    """Eight devices hold them alike: Orbax would have each write its own eighth."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    state = jax.device_put({"params": {f"{n}": np.ones((n, 3)) for n in (8, 16, 24)}}, NamedSharding(mesh, P()))
    with checkpoint.Checkpoints(tmp_path) as checkpoints, jax.log_compiles(), caplog.at_level("WARNING"):
        checkpoints.save(1, state, Position(1), META)
        checkpoints.wait()
    assert not [record for record in caplog.records if "slice" in record.getMessage()]
    assert checkpoint_reading.meta(tmp_path) == META


def test_nothing_saved_is_no_checkpoint(tmp_path):
    assert read(tmp_path) is None
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint_reading.meta(tmp_path)


def flip(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def cut(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def empty(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def drop(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.unlink()


@pytest.mark.parametrize("injury", [flip, cut, empty, drop])
def test_an_injured_file_never_gives_wrong_content(saved, tmp_path, injury):
    """Every file in turn: what is restored is either whole or the checkpoint before, and never anything else."""
    rng = np.random.default_rng(0)
    skipped = 0
    for number, original in enumerate(files(saved, 4)):
        workdir = shutil.copytree(saved, tmp_path / str(number))
        injury(workdir / original.relative_to(saved), rng)
        restored = read(workdir)
        assert same(restored, restored.step), f"{injury.__name__} {original.name}"
        if restored.step == 2:
            skipped += 1
            assert (workdir / "checkpoints" / "4.damaged").is_dir()
    assert skipped >= 4  # manifest, arrays, data, meta at least; some of Orbax's own notes nobody needs


def test_every_bit_of_the_arrays_counts(saved, tmp_path):
    largest = max(files(saved, 4), key=lambda path: path.stat().st_size)
    rng = np.random.default_rng(1)
    for number in range(5):
        workdir = shutil.copytree(saved, tmp_path / str(number))
        flip(workdir / largest.relative_to(saved), rng)
        assert same(read(workdir), 2)


def test_an_empty_step_folder_and_a_missing_item_are_skipped(workdir, caplog):
    (workdir / "checkpoints" / "7").mkdir()
    shutil.rmtree(workdir / "checkpoints" / "4" / "data")
    assert same(read(workdir), 2)
    assert "checkpoint 7 is skipped: it has no manifest.json" in caplog.text
    assert "checkpoint 4 is skipped" in caplog.text


def half_read(file: pathlib.Path) -> None:
    """Forgets a coroutine of this file that is reading an array, and then fails."""
    names = {"wait": types.coroutine(lambda: (yield))}
    text = "async def read():\n try:\n  await wait()\n finally:\n  raise ValueError('another array')"
    exec(compile(text, str(file), "exec"), names)
    coroutine = names["read"]()
    coroutine.send(None)
    del coroutine
    gc.collect()


def test_reads_that_end_after_damage_was_found_print_nothing(capfd, monkeypatch):
    """Orbax closes its loop at the first error, and TensorStore then brings it the other arrays."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    promise, future = tensorstore.Promise.new()

    async def read() -> None:
        await future

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no array")

    async def both() -> None:
        await asyncio.gather(read(), fail())

    damaged = pytest.raises(integrity.DamagedError, match="no array")
    with contextlib.closing(asyncio.new_event_loop()) as loop, damaged, checkpoint_arrays.damage_named():
        loop.run_until_complete(both())
    promise.set_result(0)
    assert not future.exception()
    half_read(pathlib.Path(ocp.__file__).parent / "reading.py")
    assert "Traceback" not in capfd.readouterr().err
    half_read(pathlib.Path(__file__))
    assert "another array" in capfd.readouterr().err

    class Other:
        def __del__(self) -> None:
            raise ValueError("another matter")

    Other()
    assert "another matter" in capfd.readouterr().err


def test_all_bad_is_an_error_and_stays_one(workdir):
    rng = np.random.default_rng(0)
    for step in (2, 4):
        flip(workdir / "checkpoints" / str(step) / "manifest.json", rng)
    for _ in range(2):  # nothing is put aside, or the second try would begin anew in silence
        with pytest.raises(UserError, match=r"none of the checkpoints .*4: its manifest.json .*2: its manifest.json"):
            read(workdir)


HALF = jnp.ones(7, jnp.bfloat16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": {"kernel": HALF, "half": HALF}}, r"kernel float32\[64, 16\] saved, bfloat16\[7\] now"),
        ({"params": {"kernel": jnp.zeros((64, 16)), "half": jnp.ones(7)}}, r"half bfloat16\[7\] saved, float32"),
        ({"extra": jnp.zeros(3)}, r"extra absent saved, float32\[3\] now"),
    ],
)
def test_other_dtypes_shapes_and_names_are_refused_in_words(workdir, change, words):
    with checkpoint.Checkpoints(workdir) as checkpoints, pytest.raises(UserError, match=words):
        checkpoints.restore(jax.eval_shape(lambda: make(0) | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [({}, "step 4 holds a teacher, and with these settings nothing needs"), ({"extra": HALF}, "extra absent saved")],
)
def test_a_teacher_that_nothing_needs_any_more_is_refused_in_words(tmp_path, change, words):
    teacher = {"teacher": {"cls": jnp.ones(3), "vision": {"kernel": jnp.ones((2, 2))}}}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, make(4) | teacher, Position(4), META)
        checkpoints.wait()
        with pytest.raises(UserError, match=words):
            checkpoints.restore(jax.eval_shape(lambda: make(0) | {"teacher": {}} | change))


def test_a_kill_between_the_files_and_the_manifest_loses_nothing(workdir):
    root = workdir / "checkpoints"
    (root / "4" / "manifest.json").rename(root / "4.manifest")
    (root / "6.manifest").write_text("{}")  # one that never got its folder
    (root / "6.orbax-checkpoint-tmp-1").mkdir()
    (root / "1.old").mkdir()
    assert same(read(workdir), 4)
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) == ["2", "4"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"keep": 2, "keep_every": 4, "keep_best": 1}, [2, 4, 6, 7]),
        ({"keep": 1, "keep_best": 3}, [2, 3, 5, 7]),  # of equal scores the latest
        ({"keep": 0}, [7]),
        ({"keep": 1, "keep_every": 3}, [3, 6, 7]),
    ],
)
def test_what_is_preserved(tmp_path, settings, steps):
    scores = {1: -np.inf, 2: 0.9, 3: 0.5, 4: 0.1, 5: 0.5}
    root = write(tmp_path, *range(1, 8), scores=scores, **settings)
    assert integrity.steps(root) == steps


def test_a_damaged_checkpoint_does_not_count_among_the_kept(workdir):
    shutil.rmtree(workdir / "checkpoints" / "4" / "state")
    assert read(workdir).step == 2
    root = write(workdir, 4, 6)
    assert integrity.steps(root) == [4, 6]
    assert same(read(workdir), 6)


def test_no_room_is_said_before_anything_is_written(workdir, monkeypatch):
    usage = shutil.disk_usage(workdir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="no room for the checkpoint of step 6"):
        write(workdir, 6)
    monkeypatch.undo()
    assert same(read(workdir), 4)


def test_the_error_of_a_save_surfaces_at_the_next_check(workdir, monkeypatch):
    """The disk fills up while Orbax writes in the background."""
    monkeypatch.setattr(checkpoint.ocp.PyTreeCheckpointHandler, "finalize", full_disk)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(6, make(6), Position(6), META)
        checkpoints._orbax._async_manager._thread.join()
        with pytest.raises(UserError, match=r"checkpoint of step 6 could not be written .*No space left"):
            checkpoints.check()
    monkeypatch.undo()
    assert same(read(workdir), 4)
    write(workdir, 6)  # the disk is back
    assert same(read(workdir), 6)


def full_disk(*_) -> None:
    raise OSError(28, "No space left on device")


def test_one_run_has_one_process(workdir):
    with checkpoint.Checkpoints(workdir), pytest.raises(UserError, match="another process trains"):
        checkpoint.Checkpoints(workdir)


def test_a_hash_knows_content_and_place_but_no_layout() -> None:
    x = jax.random.normal(jax.random.key(0), (32, 24))
    plain = fingerprint.arrays({"x": x})
    for data, fsdp, spec in ((8, 1, P("data")), (2, 4, P("fsdp", "data"))):
        placed = jax.device_put(x, NamedSharding(sharding.make_mesh(data, fsdp), spec))
        assert fingerprint.arrays({"x": placed}) == plain
    swapped = x.at[0].set(x[1]).at[1].set(x[0])
    others = (swapped, x.T, x.at[3, 3].add(1e-6), jnp.zeros_like(x), -jnp.zeros_like(x))
    assert len({*plain.values(), *(fingerprint.arrays([other])["0"] for other in others)}) == 1 + len(others)
    assert fingerprint.facts({"a": 1, "b": [2]}) == fingerprint.facts({"b": [2], "a": 1}) != fingerprint.facts({"a": 1})
