"""What a command's exit code says, and that help and README say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redteam.cli import app
from redteam.exit_codes import ExitCode, code_of, worst

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize(
    ("verdict", "attack", "gate"),
    [("RESISTED", 0, 0), ("RECOVERED", 0, 1), ("INCONCLUSIVE", 3, 3)],
)
def test_the_code_of_a_verdict(verdict: str, attack: int, gate: int) -> None:
    assert (code_of(verdict, gated=False), code_of(verdict, gated=True)) == (attack, gate)


@pytest.mark.parametrize(("codes", "whole"), [([], 0), ([0], 0), ([0, 3], 3), ([3, 0, 1], 1), ([1, 1], 1), ([3, 3], 3)])
def test_the_code_of_several_outcomes(codes: list[int], whole: int) -> None:
    assert worst(codes) is ExitCode(whole)


def test_an_error_is_no_verdict_and_no_gate() -> None:
    said = {code_of(verdict, gated=gated) for verdict in ("RESISTED", "RECOVERED", "INCONCLUSIVE") for gated in (0, 1)}
    assert not said & {ExitCode.ERROR, ExitCode.INTERRUPTED}


def test_the_help_names_every_code_and_no_other() -> None:
    epilog = app.info.epilog
    assert isinstance(epilog, str)
    words = {"PASSED": "0 done, or the gate is passed", "FAILED": "1 the gate is failed", "ERROR": "2 error",
             "UNDECIDED": "3 inconclusive", "INTERRUPTED": "130 interrupted"}  # fmt: skip
    assert words.keys() == ExitCode.__members__.keys()
    for name, said in words.items():
        assert said.startswith(f"{ExitCode[name].value} ")
        assert said in epilog
    assert {int(number) for number in re.findall(r"\d+", epilog)} == {code.value for code in ExitCode}


def test_the_readme_names_every_code_and_no_other() -> None:
    text = " ".join(README.read_text(encoding="utf-8").split())
    attack, gate = re.findall(r"Exit codes?:? (\d.*?)\.", text)
    assert attack == "0 a verdict, 2 an error, 3 inconclusive, 130 interrupted"
    assert gate == "0: every capability resists or is waived; 1: one was recovered; 3: one cannot be told"
    assert {int(number) for number in re.findall(r"\d+", attack + gate)} == {code.value for code in ExitCode}
