"""Mutates valid files of every format that is read: `python -m tests.fuzz --cases 10000`.

Whatever the bytes, a row gives a record in its contract or a reject with a code: no other exception, no hang, no run
away memory, no record that the contract does not allow. Sets and exports (`tests/fuzz_folders.py`) open or are refused
in one line. Nothing outside a case's folder is opened, and nothing runs. Failing inputs are kept for a look.
"""

import argparse
import collections
import dataclasses
import functools
import gzip
import io
import logging
import multiprocessing
import os
import random
import re
import resource
import signal
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom
import SimpleITK

from data import reasons
from data.errors import UserError
from data.manifest import samples
from data.manifest import source as manifest
from data.manifest.options import DEFAULT
from data.readers import geometry
from data.source import Rejected, Row
from tests import dicoms, fuzz_folders

SECONDS = 20  # of processor time for one case; of the clock ten times as many, on a machine that others use too
MEMORY = 6 << 30  # of address space beyond which an allocation fails
RESIDENT = 2 << 30  # what a case may take in fact: the default of config.worker_memory_gb
INTERESTING = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A case that misbehaved."""

    sample: int
    kind: str
    what: str


def seeds() -> dict[str, bytes]:
    """One small valid file of each format, by the name that it is read under."""
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.normal(size=(48, 56)), (0, 0), 4)
    film = cv2.normalize(grey, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    noise = cv2.GaussianBlur(rng.normal(size=(16, 16, 8)), (0, 0), 2)
    scan = np.where(noise < 0, -900, 40).astype(np.int16)
    nifti = nibabel.Nifti1Image(scan, np.diag([-2.0, -2.0, 3.0, 1.0])).to_bytes()
    image = SimpleITK.GetImageFromArray(scan.transpose(2, 1, 0))
    files = {
        "x.png": cv2.imencode(".png", film)[1].tobytes(),
        "x16.png": cv2.imencode(".png", film.astype(np.uint16) * 16)[1].tobytes(),
        "x.jpg": cv2.imencode(".jpg", film)[1].tobytes(),
        "x.tiff": cv2.imencode(".tiff", film.astype(np.float32))[1].tobytes(),
        "x.dcm": _dicom(film.astype(np.uint16) * 16, Modality="DX", WindowCenter=2000, WindowWidth=4000),
        "xj2k.dcm": _dicom(film.astype(np.uint16) * 16, compress=pydicom.uid.JPEG2000Lossless, Modality="DX"),
        "xrle.dcm": _dicom(film.astype(np.uint16) * 16, compress=pydicom.uid.RLELossless, Modality="DX"),
        "ct.nii": nifti,
        "ct.nii.gz": gzip.compress(nifti, mtime=0),
        "slice.dcm": _dicom(
            (scan[..., 0].T + 1024).astype(np.int16),
            Modality="CT",
            SeriesInstanceUID="1.2",
            RescaleSlope=1,
            RescaleIntercept=-1024,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 0],
            PixelSpacing=[2, 2],
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        ),
        "ct.dcm": _enhanced(scan),
        "ctrle.dcm": _enhanced(scan, compress=pydicom.uid.RLELossless),
        "rows.csv": b'path,modality,report,patient,label:a\nx.png,xray,"A nodule, left",p1,1\nct.nii,ct,None,p2,-1\n',
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ct.nrrd", "ct.mha"):
            for packed in (False, True):
                SimpleITK.WriteImage(image, str(Path(folder) / name), useCompression=packed)
                files[name.replace(".", "_packed.") if packed else name] = (Path(folder) / name).read_bytes()
    return files


def _enhanced(scan: np.ndarray, compress: str = "") -> bytes:
    shared = {
        "PixelMeasuresSequence": {"PixelSpacing": [2, 2]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
    }
    places = [[0, 0, 3 * index] for index in range(scan.shape[2])]
    return _saved(dicoms.enhanced((scan.T + 1024).astype(np.int16), places, shared=shared), compress)


def _dicom(pixels: np.ndarray, compress: str = "", **elements: object) -> bytes:
    return _saved(dicoms.dataset(pixels, **elements), compress)


def _saved(data: pydicom.Dataset, compress: str) -> bytes:
    if compress:
        data.compress(compress)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few of the usual accidents: bits, bytes, numbers, cuts, holes, repeats; most of them near the header."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        if not out:
            break
        at = rng.randrange(min(len(out), rng.choice((64, 400, 2000, len(out)))))
        long = rng.choice((1, 2, 8, 64, 1000))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4))
            number = rng.choice(INTERESTING) % (1 << 8 * size)
            out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 3:
            del out[at : at + long]
        elif kind == 4:
            out[at:at] = out[at : at + long]
        elif kind == 5:
            out[at : at + long] = bytes(min(long, len(out) - at))
        elif kind == 6:
            del out[at + rng.randrange(len(out)) :]
        else:
            out[at : at + 1] = rng.choice((b"-1", b"99999999999", b"nan", b"\0", b'"', b"../", b"\xff\xfe", b"\n"))
    return bytes(out)


def damage(name: str, data: bytes, rng: random.Random) -> bytes:
    """A mutation; every other time with the checksums made right again, which otherwise hide what lies behind them."""
    if rng.random() < 0.5:
        if name.endswith(".json"):
            return fuzz_folders.structure(data, rng)
        if name.endswith((".nrrd", ".mha")):
            return fuzz_folders.header_line(data, rng)
        if name.endswith(".gz"):
            return gzip.compress(mutate(gzip.decompress(data), rng), 1, mtime=0)
        if name.endswith(".png"):
            return _sealed(mutate(data[8:], rng))
    return mutate(data, rng)


def _sealed(chunks: bytes) -> bytes:
    """A PNG of these chunks with the checksums that they should have."""
    out, at = b"\x89PNG\r\n\x1a\n", 0
    while at + 12 <= len(chunks):
        end = at + 8 + int.from_bytes(chunks[at : at + 4])
        if end + 4 > len(chunks):
            break
        out += chunks[at:end] + zlib.crc32(chunks[at + 4 : end]).to_bytes(4)
        at = end + 4
    return out + chunks[at:]


def run(number: int, names: tuple[str, ...], files: dict[str, bytes], folder: Path) -> tuple[str, str]:
    """(format, verdict) of one case; raises what the readers must not raise."""
    rng = random.Random(number)
    name = names[number % len(names)]
    data = damage(name, files[name], rng)
    if name == "rows.csv":
        return name, _table(data, folder)
    if "/" in name:
        return name, fuzz_folders.open_folder(name, data, files, folder)
    path = folder / name
    if name == "slice.dcm":
        path = _series(data, files[name], folder / "series", rng)
    else:
        path.write_bytes(data)
    sample = samples.Sample(path, None, "p", "A nodule.", (), "")
    row = Row("key", "xray" if name.startswith("x") else "ct", "train", 1, sample, name)
    example = samples.convert(row, read=functools.partial(samples.pixels, rules=DEFAULT.scans))
    if isinstance(example, Rejected):
        code = example.reason.partition(":")[0]
        assert code in reasons.REJECTED, code
        assert "\n" not in example.reason
        assert "0x" not in example.reason
        return name, code
    check(example)
    return name, "accepted"


def check(example: dict) -> None:
    """The record's contract."""
    if "image" in example:
        assert (example["image"].shape, example["image"].dtype) == ((256, 256), np.uint8)
        assert example["image"].max() > example["image"].min()
        return
    volume, spacing = example["volume"], example["spacing_mm"]
    assert (volume.shape, volume.dtype) == ((32, 128, 128), np.int16)
    assert geometry.AIR_HU <= volume.min() < volume.max() <= geometry.HIGHEST_HU
    assert np.isfinite(spacing).all()
    assert (spacing > 0).all()


def _table(data: bytes, folder: Path) -> str:
    (folder / "rows.csv").write_bytes(data)
    try:
        source = manifest.read(folder / "rows.csv")
    except UserError as error:
        return "refused" if "\n" not in str(error) else "FAILED: a message of several lines"
    for one in source.rejected:
        assert one.reason.partition(":")[0] in reasons.REJECTED
    return "accepted"


def _series(data: bytes, whole: bytes, folder: Path, rng: random.Random) -> Path:
    """Six slices of which the lowest is mutated; where it stands among the names is drawn."""
    folder.mkdir(exist_ok=True)
    for index in range(1, 6):
        slice_ = pydicom.dcmread(io.BytesIO(whole))
        slice_.ImagePositionPatient = [0, 0, 3 * index]
        slice_.save_as(folder / f"{index}.dcm")
    for name in ("0.dcm", "9.dcm"):
        (folder / name).unlink(missing_ok=True)
    (folder / rng.choice(("0.dcm", "9.dcm"))).write_bytes(data)
    return folder


def _peak() -> int:
    """The most memory this process held, in bytes. Not getrusage's: a child begins with its parent's peak there."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


def _overtime(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def work(numbers: range, keep: Path | None, report: Callable[[int, str, str], None]) -> None:
    """Runs cases and tells what came of each, before it starts ("") and after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _overtime)
    files, folders = seeds(), fuzz_folders.seeds()
    names = (*files, *fuzz_folders.mutated(folders))
    files |= folders
    with tempfile.TemporaryDirectory() as top:
        scratch, outside = Path(top) / "case", Path(top) / "outside"
        scratch.mkdir()
        outside.mkdir()
        (outside / "secret.raw").write_bytes(bytes(16 * 16 * 8 * 2))
        trespasses = fuzz_folders.watch(outside)
        for name in ("x.png", "ct.nii"):
            (scratch / name).write_bytes(files[name])
        for number in numbers:
            report(number, names[number % len(names)], "")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                name, verdict = run(number, names, files, scratch)
                if reached := trespasses():
                    verdict = f"FAILED: {reached[0]}"
            except Exception as error:
                name, verdict = names[number % len(names)], f"FAILED {type(error).__name__}: {error}"
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}.txt").write_text(traceback.format_exc())
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            peak = _peak()
            if peak > RESIDENT:
                report(number, name, f"FAILED: {peak / 2**30:.1f} GB of memory")
                return  # the peak of this process stays: a new one continues after the case
            report(number, name, verdict)


def fuzz(cases: int, *, start: int = 0, keep: Path | None = None) -> tuple[collections.Counter, list[Failure]]:
    """Runs cases in a process of its own, which a crash of a decoder may end; continues after the case that did."""
    verdicts: collections.Counter = collections.Counter()
    failures: list[Failure] = []
    context = multiprocessing.get_context("spawn")
    at, end = start, start + cases
    while at < end:
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=_child, args=(range(at, end), keep, send))
        worker.start()
        send.close()
        begun, name = at, ""
        while True:
            try:
                if not receive.poll(10 * SECONDS):
                    worker.kill()
                    break
                number, name, verdict = receive.recv()
            except EOFError:
                break
            if not verdict:
                begun = number
                continue
            at = number + 1
            verdicts[name, verdict if not verdict.startswith("FAILED") else "FAILED"] += 1
            if verdict.startswith("FAILED"):
                failures.append(Failure(number, name, verdict))
        worker.join()
        if at < end:
            failures.append(Failure(begun, name, f"the process ended with {worker.exitcode}"))
            at = begun + 1
    return verdicts, failures


def _child(numbers: range, keep: Path | None, pipe: object) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    logging.disable()
    work(numbers, keep, lambda *message: pipe.send(message))


def main() -> None:
    """Prints a table of verdicts by format, and the failures; exits with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="number, and seed, of the first case")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the tracebacks of failures")
    arguments = parser.parse_args()
    started = time.monotonic()
    verdicts, failures = fuzz(arguments.cases, start=arguments.start, keep=arguments.keep)
    for (name, verdict), count in sorted(verdicts.items()):
        print(f"{name:<64}{verdict:<24}{count:>6}")
    for one in failures:
        print(f"case {one.sample}, {one.kind}: {one.what}")
    print(f"{sum(verdicts.values())} cases in {time.monotonic() - started:.0f} s, {len(failures)} failures")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
