"""Several capabilities of one model in one run: each as by itself, ranked, resumed, and told apart."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from run_redteam import ONE_PROBE
from run_redteam import redteam as command

import redteam
from redteam.errors import InputError
from redteam.evidence.results import CapabilityResult, Results
from redteam.evidence.sealed import open_runs
from redteam.judging.together import judged_again, rank
from redteam.record import Interval
from redteam.reporting.console import print_results

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"
HOW = {"budget": 2, "attacks": [QUICK], "probes": ["means"]}


@pytest.fixture(scope="module")
def two(untrained: Path) -> list[Path]:
    """The same questions under two names and other splits, the later name first."""
    rules = untrained.with_name("capability.toml").read_text()
    places = []
    for name, seed in (("Zeta [red]", 1), ("alpha", 2)):
        place = untrained.with_name(f"{name[:4]}.toml")
        place.write_text(rules.replace('name = "facts"', f'name = "{name}"') + f"seed = {seed}\n")
        places.append(place)
    return places


@pytest.fixture(scope="module")
def both(untrained: Path, two: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    out = tmp_path_factory.mktemp("several") / "run"
    return redteam.attack(untrained, capability=two, out=out, **HOW), out


def test_each_is_found_as_by_itself(
    untrained: Path, two: list[Path], both: tuple[Results, Path], tmp_path: Path
) -> None:
    results, _ = both
    alone = [
        redteam.attack(untrained, capability=place, out=tmp_path / place.stem, **HOW).capabilities[0] for place in two
    ]
    assert sorted(results.capabilities, key=lambda found: found.name) == sorted(alone, key=lambda found: found.name)
    assert {found.name for found in results.capabilities} == {"Zeta [red]", "alpha"}


def test_a_directory_holds_a_run_for_each_and_what_was_found(both: tuple[Results, Path]) -> None:
    results, out = both
    assert sorted(place.name for place in out.iterdir()) == ["00-zeta-red", "01-alpha", "results.json"]
    assert Results.model_validate_json((out / "results.json").read_text()) == results
    for place in ("00-zeta-red", "01-alpha"):
        (single,) = Results.model_validate_json((out / place / "results.json").read_text()).capabilities
        assert single in results.capabilities


def test_repeating_it_runs_nothing_again_whatever_the_order(
    untrained: Path, two: list[Path], both: tuple[Results, Path]
) -> None:
    results, out = both
    before = {log: log.read_bytes() for log in out.glob("*/events.jsonl")}
    assert len(before) == 2
    assert redteam.attack(untrained, capability=two[::-1], out=out, **HOW) == results
    assert {log: log.read_bytes() for log in before} == before


def test_the_report_ranks_them(both: tuple[Results, Path]) -> None:
    results, out = both
    text = io.StringIO()
    print_results(results, out, Console(file=text, width=120))
    ranking = text.getvalue().split("capability  ")[-1]
    order = [ranking.index(found.name) for found in results.capabilities]
    assert order == sorted(order)
    assert str(out / "results.json") in "".join(text.getvalue().split("\n"))


def ranked(verdict: str, excess: float | None, name: str, like: CapabilityResult) -> CapabilityResult:
    interval = None if excess is None else Interval(estimate=excess, low=0, high=1)
    return like.model_copy(update={"verdict": verdict, "excess_recovery": interval, "name": name})


def test_what_most_needs_looking_at_comes_first(both: tuple[Results, Path]) -> None:
    like = both[0].capabilities[0]
    wanted = [
        ranked("RECOVERED", 0.9, "a", like),
        ranked("RECOVERED", 0.2, "b", like),
        ranked("INCONCLUSIVE", 0.3, "c", like),
        ranked("INCONCLUSIVE", None, "d", like),
        ranked("RESISTED", 0.05, "e", like),
        ranked("RESISTED", 0.0, "f", like),
        ranked("RESISTED", 0.0, "g", like),
    ]
    assert sorted([wanted[place] for place in (4, 1, 6, 0, 3, 5, 2)], key=rank) == wanted


def test_judged_again_they_are_what_they_were(both: tuple[Results, Path]) -> None:
    results, path = both
    assert judged_again(open_runs(path)) == results


def test_the_command_line(untrained: Path, two: list[Path], both: tuple[Results, Path]) -> None:
    """All options are those of the run that is there already, but for the probes: a run of its own."""
    out = both[1].with_name("command")
    given = [f"--capability={place}" for place in two]
    given += ["-a", QUICK, *ONE_PROBE, "--budget", "1"]
    done = command("attack", untrained, *given, "--format", "json", "--out", out)
    assert done.returncode == 3, done.stderr
    assert [found["name"] for found in json.loads(done.stdout)["capabilities"]]
    assert "Zeta [red]: searching the target" in done.stderr
    assert "alpha: searching the target" in done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    names = ("Zeta [red]", "alpha")
    assert notes[::2] == [
        f"note: {name} has 8 facts to certify on, at least 30 are needed for a verdict" for name in names
    ]
    assert [note.partition(": 8 facts")[0] for note in notes[1::2]] == [f"note: {name}" for name in names]
    assert all("RESISTED takes about 69 of them" in note for note in notes[1::2])


def test_what_keeps_a_run_from_a_verdict_is_said_before_it(untrained: Path, two: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.pt"
    shutil.copy(untrained, alone)
    given = [f"--capability={two[1]}", "-a", "noop", *ONE_PROBE, "--budget", "1"]
    done = command("attack", alone, *given, "-o", tmp_path / "run")
    assert done.returncode == 3, done.stderr
    first = done.stderr.splitlines()[:3]
    assert first[:2] == [
        "note: no original was given, and without one nothing is RESISTED: --original",
        "note: no reference was given; canaries stand for it, which cannot tell what can be inferred",
    ]
    assert first[2].startswith("note: alpha has 8 facts")


def test_two_of_one_name_are_refused_before_anything_is_run(untrained: Path, two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two capabilities are called 'alpha'"):
        redteam.attack(untrained, capability=[two[1], two[1]], out=tmp_path / "run", **HOW)
    assert not (tmp_path / "run").exists()


def test_the_run_of_one_is_not_overwritten(untrained: Path, two: list[Path], both: tuple[Results, Path]) -> None:
    single = both[1] / "01-alpha"
    with pytest.raises(InputError, match="is the run of one capability"):
        redteam.attack(untrained, capability=two, out=single, **HOW)
