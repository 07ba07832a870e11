"""Compiled programs on disk: in a folder of one's own, or not at all."""

import logging
import pathlib
import types

import pytest

from unimedi_jax import compile_cache


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch):
    """What would be set in JAX, without setting it."""
    settings = {}
    config = types.SimpleNamespace(jax_compilation_cache_dir=None, update=settings.__setitem__)
    monkeypatch.setattr(compile_cache, "jax", types.SimpleNamespace(config=config))
    return settings


def test_the_folder_is_made_for_its_owner_alone(tmp_path: pathlib.Path, setting: dict) -> None:
    folder = tmp_path / "a" / "b"
    compile_cache.enable(str(folder))
    [(name, where)] = setting.items()
    assert name == "jax_compilation_cache_dir"
    assert pathlib.Path(where).parent == folder
    assert pathlib.Path(where).stat().st_mode & 0o777 == 0o700


def test_nothing_is_kept_without_a_folder(setting: dict) -> None:
    compile_cache.enable("")
    assert setting == {}


def test_a_folder_that_jax_has_already_stays(tmp_path: pathlib.Path, setting: dict) -> None:
    compile_cache.jax.config.jax_compilation_cache_dir = "chosen"
    compile_cache.enable(str(tmp_path / "another"))
    assert setting == {}
    assert list(tmp_path.iterdir()) == []


def test_what_others_may_write_to_is_not_run(tmp_path: pathlib.Path, setting: dict, caplog) -> None:
    compile_cache.enable(str(tmp_path))
    pathlib.Path(setting.pop("jax_compilation_cache_dir")).chmod(0o777)
    with caplog.at_level(logging.WARNING):
        compile_cache.enable(str(tmp_path))
    assert setting == {}
    assert "others may write" in caplog.text


def test_a_home_that_cannot_be_written_costs_the_cache_alone(tmp_path: pathlib.Path, setting: dict, caplog) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        compile_cache.enable(str(tmp_path / "file" / "cache"))
    assert setting == {}
    assert "are not kept" in caplog.text


def test_no_home_costs_the_cache_alone(setting: dict, monkeypatch, caplog) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid not found")))
    with caplog.at_level(logging.WARNING):
        compile_cache.enable("~/.cache/unimedi_jax")
    assert setting == {}
    assert "are not kept" in caplog.text
