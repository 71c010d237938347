"""A file is replaced whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from redteam.atomic import replacing, staging, write
from redteam.errors import InputError


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize(("content", "bytes_"), [("drei äpfel\n", "drei äpfel\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_text_and_bytes_are_written_with_missing_parents(tmp_path: Path, content: str | bytes, bytes_: bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    for _ in range(2):  # anew, and over what is there
        write(path, content)
        assert path.read_bytes() == bytes_
    assert os.listdir(path.parent) == ["file"]


def test_the_content_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the two system calls is all that protects from a power cut."""
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("replace"), replace(old, new)))
    write(tmp_path / "file", "new")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("raised", [PowerCut, KeyboardInterrupt, ValueError])
def test_what_was_there_stays_where_the_body_is_cut_off(tmp_path: Path, raised: type[BaseException]) -> None:
    write(tmp_path / "file", "old")

    def cut_off() -> None:
        with replacing(tmp_path / "file") as draft:
            draft.write_text("half")
            raise raised

    with pytest.raises(raised):
        cut_off()
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("place", ["file/below", "folder"])
def test_a_place_that_cannot_be_written_is_refused_in_a_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot be written \(.+\)\. Choose another place"):
        write(tmp_path / place, "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_staging_is_beside_the_path_and_goes_away(tmp_path: Path) -> None:
    with staging(tmp_path / "new" / "model") as folder:
        assert folder.parent == tmp_path / "new"
        (folder / "part").touch()
    assert os.listdir(tmp_path / "new") == []
