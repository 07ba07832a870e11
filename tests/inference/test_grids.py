"""Networks of sets of other grids: files read on their grid, windows averaged, maps on the file, PyTorch the same."""

import dataclasses
import json

import cv2
import jax
import nibabel
import numpy as np
import pytest

from configs import pretrain
from data.build import contracts
from data.manifest.reading import Reading
from data.readers import ct_records, xrays
from data.record_grid import RecordGrid
from unimedi_jax.config.pretraining import InputConfig, ModelConfig, PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.convert import vit
from unimedi_jax.export import parity
from unimedi_jax.export import pytorch as exported
from unimedi_jax.inference import embed, maps, sources
from unimedi_jax.input import transforms
from unimedi_jax.models import towers
from unimedi_jax.prediction import own_grid

torch = pytest.importorskip("torch")
GRIDS = {
    "whole": (RecordGrid(384, (40, 150, 150)), {"crop": 336}),
    "window": (RecordGrid(384, spacing_mm=(6.0, 3.0, 3.0), crop_to="body"), {"crop": 224, "window": "random"}),
}


@pytest.fixture(scope="module", params=GRIDS)
def network(request, trained):
    """The small network as if it had been trained on records of another grid."""
    grid, reading = GRIDS[request.param]
    known = {"mine": next(iter(trained.contracts.values())) | {"records": contracts.rules(grid=grid)}}
    config = json.loads(json.dumps(trained.config))
    config["input"] |= reading
    return dataclasses.replace(trained, contracts=known, config=config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A film and a CT of a body on a table of air, with axes of its own."""
    folder = tmp_path_factory.mktemp("files")
    film, volume = (x[0] for x in parity.fixed_inputs())
    cv2.imwrite(str(folder / "film.png"), cv2.resize(film, (500, 400)))
    affine = np.array([[0, -3, 0, 40], [2.5, 0, 0, -70], [0, 0, -7, 30], [0, 0, 0, 1.0]])
    voxels = np.rot90(volume.transpose(2, 1, 0)).copy()
    nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / "ct.nii.gz")
    return folder


def test_files_are_read_on_the_grid_of_the_training_records(network, files):
    sources.check(network)
    items, _ = sources.find(files, network.reading)
    film, scan = (next(item for item in items if item.modality == name) for name in ("xray", "ct"))
    np.testing.assert_array_equal(film.read(), xrays.read_xray(film.path, 384))
    np.testing.assert_array_equal(scan.read(), ct_records.read(scan.path, network.grid).fields["volume"])


def test_maps_lie_on_the_file_where_the_network_looked(network, files, tmp_path):
    model = embed.Model(network, network.embedder(rows=1))
    embedded = model.embed(files, maps_to=tmp_path)
    assert not embedded.rejected
    assert np.isfinite(embedded.z).all()
    record = ct_records.read(files / "ct.nii.gz", network.grid).fields
    own = nibabel.load(files / "ct.nii.gz")
    attention = nibabel.load(tmp_path / "ct.nii.gz.attention.nii.gz")
    np.testing.assert_allclose(attention.affine, own.affine, atol=1e-4)
    scores = model.features("ct", [record["volume"]]).scores[0]
    on_record = maps.volume_attention(scores, record["volume"].shape, network)
    # Where a voxel of the file is on the record, by the affines alone.
    index = np.random.default_rng(0).integers(0, own.shape, (300, 3))
    world = nibabel.affines.apply_affine(np.diag([-1.0, -1, 1, 1]) @ own.affine, index)
    place = nibabel.affines.apply_affine(np.linalg.inv(record["affine"]), world)
    near = np.rint(place).astype(int)
    clear = (np.abs(place - near) < 0.4).all(1) & (near >= 0).all(1) & (near < record["volume"].shape).all(1)
    assert clear.sum() > 20
    got = np.asarray(attention.dataobj)[tuple(index[clear].T)]
    np.testing.assert_allclose(got, on_record[tuple(near[clear].T)], rtol=1e-6)
    film = maps.film_attention(model.features("xray", [xrays.read_xray(files / "film.png", 384)]).scores[0], network)
    spare = (384 - network.config["input"]["crop"]) // 2
    assert film.shape == (384, 384)
    assert not film[:spare].any()
    assert film[spare:-spare, spare:-spare].all()


def test_pytorch_cuts_and_embeds_these_records_as_jax_does(network, tmp_path):
    from unimedi_jax.export import export

    export.write(network, tmp_path / "export")
    agreement = json.loads((tmp_path / "export" / "parity.json").read_text())
    assert agreement["checked"]
    films, volumes = parity.fixed_inputs(network.grid)
    assert films.shape[1:] == (384, 384)
    model = exported.load(tmp_path / "export")
    sampler = network.sampler("ct").central
    cut = model._cut(torch.from_numpy(volumes), sampler.volume_size).numpy()
    seen = np.stack([sampler.view("volume", volume) for volume in volumes])
    assert (np.abs(cut - seen) <= 1).all()
    assert (cut != seen).mean() < 1e-3, "but for sums that lie between two integers"


def test_averaged_windows_are_the_mean_of_each_alone(trained):
    config = json.loads(json.dumps(trained.config))
    config["input"] |= {"window": "random", "windows": [3, 1, 1]}
    network = dataclasses.replace(trained, config=config)
    model = embed.Model(network, network.embedder(rows=1))
    volume = np.random.default_rng(0).integers(-1000, 500, (70, 90, 90), np.int16)
    together = model.features("ct", [volume])
    tokens = network.sampler("ct").volume(volume)
    full = (np.repeat(one[None], model.embedder.rows, axis=0) for one in tokens)
    rows = [model.embedder(model.embedder.ct, network.variables, one) for one in full]
    alone = [jax.tree.map(lambda x: x[:1], one) for one in rows]
    z = np.mean([one.z for one in alone], axis=0)
    np.testing.assert_allclose(together.cls, np.mean([one.cls for one in alone], axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.z, z / np.linalg.norm(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together.layers, alone[0].layers)


def test_masks_come_back_from_a_cropped_record_of_its_own_spacing(files):
    grid = RecordGrid(spacing_mm=(6.0, 3.0, 3.0), crop_to="body")
    path = files / "ct.nii.gz"
    own = nibabel.load(path)
    record = ct_records.read(path, grid).fields["volume"]
    logits = np.stack([record < -200, record >= -200], axis=-1).astype(np.float32)
    mask = own_grid.ct_mask(logits, path, Reading(grid))
    np.testing.assert_allclose(mask.affine, own.affine, atol=1e-4)
    tissue = np.asarray(own.dataobj) >= -200
    back = np.asarray(mask.dataobj) > 0
    assert 2 * (tissue & back).sum() / (tissue.sum() + back.sum()) > 0.93


@pytest.mark.parametrize(("side", "patch"), [(384, 16), (518, 14)])
def test_published_vits_of_these_sizes_start_runs(side, patch, make_vit, tmp_path):
    """Settings pass, records are cut to their tokens, and positions need no interpolation."""
    sizes = {"vision_size": "Mu", "image_size": side, "image_patch": (patch, patch), "report_size": "Mu"}
    plane = {"slice_size": 14 * patch, "volume_size": (32, 8 * patch, 8 * patch), "volume_patch": (4, patch, patch)}
    model_config = ModelConfig(**sizes, **plane, prototypes_cls=8, prototypes_patch=8)
    config = pretrain.get_config("demo")
    config.input.crop, config.model = side, pretrain.ConfigDict(dataclasses.asdict(model_config))
    typed(PretrainConfig, config)
    sampler = transforms.ToSample.of("xray", None, InputConfig(crop=side), model_config)
    film = np.random.default_rng(0).integers(0, 256, (544, 544), np.uint8)
    tokens = sampler.film(film)
    assert tokens.shape == ((side // patch) ** 2, patch**2)
    np.testing.assert_array_equal(tokens[0][:patch], film[(544 - side) // 2, (544 - side) // 2 :][:patch])
    model = towers.build_model(model_config, 50)
    tower = model.vision
    own = make_vit(
        img_size=side,
        patch_size=patch,
        embed_dim=tower.width,
        depth=tower.depth,
        num_heads=tower.heads,
        mlp_ratio=tower.mlp_width / tower.width,
    )
    torch.save(own.state_dict(), tmp_path / "vit.pth")
    read = vit.read(str(tmp_path / "vit.pth"), model)
    assert not any("interpolated" in change for change in read.changed)
    assert read.state["vision.pos_embed"].shape == (1, 1 + len(tokens), tower.width)
    shapes = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))
    assert shapes["params"]["vision"]["position_2d"].shape == (side // patch, side // patch, tower.width)
