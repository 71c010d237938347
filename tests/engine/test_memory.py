"""How much memory is left: what the machine says, and no more than a container leaves."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import redteam.engine.devices as devices
from redteam.engine.devices import CPU, has_room, memory_left


def group(folder: Path, most: str, used: str) -> tuple[tuple[str, str], ...]:
    files = folder / "most", folder / "used"
    for file, text in zip(files, (most, used), strict=True):
        file.write_text(f"{text}\n")
    return ((str(files[0]), str(files[1])),)


def test_the_machine_says_what_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "GROUPS", ())
    assert memory_left(CPU) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(
    ("most", "used", "left"), [("3000", "1000", 2000.0), ("1000", "3000", -2000.0), ("max", "1000", None)]
)
def test_a_container_leaves_no_more_than_its_group(
    most: str, used: str, left: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "GROUPS", group(tmp_path, most, used))
    assert memory_left(CPU) == left if left is not None else memory_left(CPU) > 0
    monkeypatch.setattr(devices, "GROUPS", ((str(tmp_path / "none"), str(tmp_path / "none")),))
    assert memory_left(CPU) > 0


def test_what_was_let_go_is_collected_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    monkeypatch.setattr(devices.gc, "collect", lambda: collected.append(1))
    monkeypatch.setattr(devices, "memory_left", lambda _: 100.0 + 50.0 * len(collected))
    assert has_room(CPU, 100.0)
    assert not collected
    assert has_room(CPU, 150.0)
    assert collected == [1]
    assert not has_room(CPU, 300.0)
