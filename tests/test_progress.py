"""How a run tells how far it is: a bar on a terminal, lines elsewhere, and of a probe its name."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tiny_classifiers import tiny_points, trained_mlp

import redteam
from redteam.reporting import progress
from redteam.reporting.progress import RunProgress
from redteam.suite.progress import Silent

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"


def told(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_where_there_is_no_terminal_a_stage_is_a_line_and_what_it_is_at_one_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with RunProgress(console) as shown:
        shown.stage("reading the target")
        shown.within("linear")
        now[0] += 20
        shown.within("m[b]lp\x1b[31m")
    assert told(console) == "reading the target\nreading the target: m[b]lp [31m\n"


def test_on_a_terminal_it_stands_beside_the_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RunProgress(console) as shown:
        shown.stage("reading the target")
        shown.within("linear")
        shown._bar.refresh()
    assert "reading the target: linear" in told(console)


def test_a_run_names_the_probes_that_read_each_model(tmp_path: Path) -> None:
    class Heard(Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def stage(self, what: str) -> None:
            self.said.append(what)

        def within(self, what: str) -> None:
            self.said.append(f"- {what}")

    points, heard = tiny_points(), Heard()
    target, original, reference = (
        trained_mlp(points, forget=known, seed=n) for n, known in enumerate((True, True, False))
    )
    redteam.attack(
        target, capability=points, original=original, reference=reference, attacks=[QUICK], probes=["means", "mdl"],
        budget=1, out=tmp_path / "run", progress=heard,
    )  # fmt: skip
    assert heard.said[:2] == ["reading the original", "reading the reference"]
    place = heard.said.index("searching the target")
    assert heard.said[place + 1 : place + 3] == ["- means", "- mdl"]
    assert sum(said == "- mdl" for said in heard.said) == 3
