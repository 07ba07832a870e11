"""Where scalars go: `metrics.jsonl`, TensorBoard event files, and the log."""

import json
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any


class Writer:
    """Appends scalars to `workdir/metrics.jsonl` and `workdir/tensorboard/`.

    After a resume at step s, lines of later steps are cut off first: the file reads as if the run had never stopped.
    Only the first process of a run writes; the others get a writer that does nothing (`active=False`).
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int, active: bool = True) -> None:
        self.workdir = workdir
        self._active = active
        if active:
            self._open(resume_step)

    def cut(self, step: int) -> None:
        """Takes back what was written of later steps than `step`."""
        if self._active:
            self._close()
            self._open(step)

    def _open(self, resume_step: int) -> None:
        path = self.workdir / "metrics.jsonl"
        _cut_after(path, resume_step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = EventFile(self.workdir / "tensorboard", first_step=resume_step + 1)

    def _close(self) -> None:
        self._lines.close()
        self._events.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line: step, wall time in seconds since 1970, and every scalar; not-a-number becomes null."""
        if not self._active:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3)} | finite) + "\n")
        self._lines.flush()
        self._events.scalars(step, {name: value for name, value in finite.items() if value is not None})

    def sync(self) -> None:
        """All lines on the disk: before a checkpoint that counts on them."""
        if self._active:
            os.fsync(self._lines.fileno())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._active:
            self._close()


class EventFile:
    """A file that TensorBoard reads: TFRecords of `tensorflow.Event` messages, of which scalars need five fields.

    Written out here, because every library that writes them imports TensorFlow or PyTorch: seconds at every start.
    """

    def __init__(self, folder: pathlib.Path, *, first_step: int) -> None:
        """Starts a file; TensorBoard hides what earlier files hold of `first_step` and later steps."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        self._file = path.open("ab", buffering=0)
        self._write(first_step, _field(3, b"brain.Event:2"))  # file_version
        self._write(first_step, _field(7, b"\x08\x01"))  # session_log: status START

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One event with all values of a step."""
        # Event.summary: repeated Summary.Value with a tag (1) and a simple_value (2, float32).
        parts = (_field(1, name.encode()) + b"\x15" + struct.pack("<f", value) for name, value in values.items())
        self._write(step, _field(5, b"".join(_field(1, part) for part in parts)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, content: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message in protocol buffers' wire format."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def _checksum(content: bytes) -> bytes:
    """TFRecord's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = [_crc_entry(value) for value in range(256)]


def lines(workdir: pathlib.Path) -> Iterator[dict[str, float]]:
    """The lines of a run's `metrics.jsonl` one after the other; none where there is no file."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def read(workdir: pathlib.Path) -> list[dict[str, float]]:
    """All of them."""
    return list(lines(workdir))


def _cut_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    lines_before = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines_before.append(line)
        except (ValueError, KeyError):
            continue  # the torn last line of a killed process
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in lines_before), encoding="utf-8")
    partial.replace(path)
