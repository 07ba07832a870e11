"""Jobs whose settings name buckets: they read and write there, and make no folder of a scheme's name."""

import pathlib
import shutil
import types

import cv2
import numpy as np
import pytest

import unimedi_jax
from configs import audit, build, embed, evaluate, export, inspect, predict, pretrain, probe
from data import job as building
from data.buckets import mirror
from data.buckets.store import Store
from data.errors import UserError
from data.source import MODALITIES, SPLITS
from tests.faults import config as toy
from unimedi_jax import staging
from unimedi_jax.config import paths
from unimedi_jax.evaluation import evaluate as evaluation
from unimedi_jax.export import export as exporting
from unimedi_jax.inference import embed as embedding
from unimedi_jax.input import records
from unimedi_jax.report import inspection
from unimedi_jax.train import loop


def go(module, config, workdir) -> None:
    """A job as the command runs it."""
    paths.check_all(config.to_dict())
    with staging.staged(config, workdir) as folder:
        module.run(config, folder)


def names(url: str) -> set[str]:
    store = Store(url)
    return {name.removeprefix(f"{store.path}/") for name in store.list(store.path)}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Where a folder named "gs:" would be made."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert list(pathlib.Path().iterdir()) == []


def test_a_set_is_built_in_a_bucket_and_read_from_it(scheme, cache, capsys):
    config = build.get_config("phantom")
    config.update(data_dir=f"{scheme}://bucket/built", xrays=4, cts=2, workers=1, name="small")
    go(building, config, pathlib.Path("runs"))
    printed = capsys.readouterr().out
    assert f"built: {scheme}://bucket/built/small/" in printed
    assert f"--config.data_dir={scheme}://bucket/built " in printed, "the next command reads where this one wrote"
    assert {"small/contract.json", "small/members.json"} <= names(f"{scheme}://bucket/built")
    assert not [name for name in names(f"{scheme}://bucket/built") if name.endswith(".partial")]
    cache("other")
    config = inspect.get_config()
    config.path = f"{scheme}://bucket/built/small"
    go(inspection, config, pathlib.Path("runs"))
    assert "small" in capsys.readouterr().out


def test_a_build_that_is_ended_while_it_sends_is_made_whole_by_the_same_command(scheme, cache, monkeypatch, capsys):
    url, put, sent = f"{scheme}://bucket/ended", Store.put, []

    def build_it() -> None:
        config = build.get_config("phantom")
        config.update(data_dir=url, xrays=4, cts=2, workers=1, name="small")
        go(building, config, pathlib.Path("runs"))

    def send(self, path, name):
        if len(sent) == 3:
            raise UserError("no network")
        sent.append(name)
        put(self, path, name)

    with monkeypatch.context() as patched:
        patched.setattr(mirror, "THREADS", 1)
        patched.setattr(Store, "put", send)
        with pytest.raises(UserError, match="no network"):
            build_it()
    assert len(names(url)) == 3
    assert "small/contract.json" not in names(url)
    build_it()
    assert "already built" in capsys.readouterr().out, "nothing is drawn again"
    cache("other")
    opened = records.open_set(mirror.fetch(url, ["small"]), "small")
    sizes = {modality: [opened.size(modality, split) for split in SPLITS] for modality in MODALITIES}
    assert {modality: sum(counts) for modality, counts in sizes.items()} == {"xray": 4, "ct": 2}


def test_a_pipeline_builds_in_a_bucket_what_processes_build(scheme, cache):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: requirements-beam.txt")
    base = f"{scheme}://bucket/piped"
    films = mirror.written(f"{base}/source")
    films.path.mkdir()
    rows, rng = ["path,modality,report,patient,split"], np.random.default_rng(0)
    for number in range(6):
        noise = cv2.GaussianBlur(rng.normal(size=(90, 90)), (0, 0), 5)
        cv2.imwrite(str(films.path / f"f{number}.png"), cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX))
        rows.append(f"f{number}.png,xray,The lungs are clear.,p{number},{'train' if number < 4 else 'test'}")
    (films.path / "films.csv").write_text("\n".join(rows))
    films.push()
    store, built = Store(base), {}
    for runner in ("pool", "beam"):
        config = build.get_config("manifest")
        config.update(source=f"{base}/source/films.csv", data_dir=f"{base}/{runner}", name="mine", workers=1)
        config.runner = runner
        go(building, config, pathlib.Path("runs"))
        built[runner] = {name: store.read(f"bucket/piped/{runner}/{name}") for name in names(f"{base}/{runner}")}
        store.write("bucket/piped/beam/.salt", built[runner][".salt"])  # patients' ids are hashed with it
    assert built["beam"] == built["pool"]
    assert "mine/contract.json" in built["beam"]


def test_a_run_and_what_is_made_of_it(scheme, cache, records_dir, tmp_path, capsys):
    base = f"{scheme}://bucket"
    records = mirror.written(f"{base}/records")
    shutil.copytree(records_dir, records.path)
    records.push()
    config = toy.short(records_dir)
    config.data_dir = f"{base}/records"
    go(loop, config, f"{base}/runs/a")
    assert {"config.json", "metrics.jsonl", "report/index.html", "checkpoints/3/manifest.json"} <= names(
        f"{base}/runs/a"
    )
    assert not [name for name in names(f"{base}/runs/a") if "lease" in name or "lock" in name]
    saved = Store(base).read("bucket/runs/a/config.json").decode()
    assert f'"data_dir": "{base}/records"' in saved, "as it was named, not where it lies on this machine"

    cache("other")
    films = mirror.written(f"{base}/films")
    films.path.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8)
    cv2.imwrite(str(films.path / "film.png"), cv2.GaussianBlur(noise, (0, 0), 5))
    films.push()
    config = embed.get_config()
    config.update(checkpoint=f"{base}/runs/a:3", source=f"{base}/films", out=f"{base}/out/films.npz", rows=1)
    go(embedding, config, pathlib.Path("runs"))
    with np.load(mirror.fetch(f"{base}/out/films.npz")) as arrays:
        (expected,) = arrays["z"]

    config = export.get_config()
    config.update(checkpoint=f"{base}/runs/a", out=f"{base}/exports/a")
    go(exporting, config, pathlib.Path("runs"))
    assert {"unimedi.json", "unimedi.safetensors", "contract.json"} <= names(f"{base}/exports/a")

    for address in (f"{base}/runs/a:3", f"{base}/exports/a"):
        model = unimedi_jax.load(address, rows=1)
        (z,) = model.embed(films.path).z
        np.testing.assert_allclose(z, expected, atol=1e-6)
        assert model.pretrained.address == address.removesuffix(":3")
    with pytest.raises(UserError, match=f"^there is nothing at {base}/nobody"):
        unimedi_jax.load(f"{base}/nobody:best")

    config = evaluate.get_config()
    config.update(checkpoint=f"{base}/exports/a", data_dir=f"{base}/records", tasks="retrieve", rows=8, resamples=10)
    config.untrained = False
    go(evaluation, config, f"{base}/evaluations/a")
    assert {"results.csv", "index.html"} <= names(f"{base}/evaluations/a")
    store = Store(base)
    assert f",{base}/exports/a," in store.read("bucket/evaluations/a/results.csv").decode()
    others = [name for name in store.list("bucket") if not name.endswith("/commit_success.txt")]  # Orbax's own mark
    assert [name for name in others if str(tmp_path).encode() in store.read(name)] == []


@pytest.mark.parametrize("source", [audit, predict, probe])
def test_every_setting_that_is_a_place_becomes_a_path(scheme, cache, source):
    base = f"{scheme}://bucket/settings"
    place = mirror.written(base)
    for name in ("a.csv", "mine/contract.json", "run/config.json", "head/a.json"):
        (place.path / name).parent.mkdir(parents=True, exist_ok=True)
        (place.path / name).write_text("{}")
    place.push()
    config = source.get_config()
    addresses = {"path": "run", "source": "a.csv", "checkpoint": "run:best", "head": "head", "data_dir": ""}
    for key, name in addresses.items():
        if key in config:
            config[key] = f"{base}/{name}".rstrip("/")
    if "data" in config:
        config.data = "mine"
    if "out" in config:
        config.out = f"{base}/new.csv"

    def run(config, folder) -> None:
        for key in addresses:
            if key in config:
                path, _, which = config[key].partition(":")
                assert pathlib.Path(path).exists(), key
                assert which == ("best" if key == "checkpoint" else "")
        if "out" in config:
            pathlib.Path(config.out).write_text("made")

    go(types.SimpleNamespace(run=run), config, f"{base}/workdir")
    if "out" in config:
        assert Store(base).read("bucket/settings/new.csv") == b"made"


def test_what_was_made_before_an_error_is_sent_and_the_error_is_the_jobs(scheme, cache):
    def run(config, folder) -> None:
        folder.mkdir()
        (folder / "half").write_text("1")
        raise UserError("the job's own line")

    with pytest.raises(UserError, match=r"^the job's own line$"):
        go(types.SimpleNamespace(run=run), pretrain.get_config(), f"{scheme}://bucket/failed")
    assert names(f"{scheme}://bucket/failed") == {"half"}
