"""Files that nobody wrote: thousands of damaged ones of every form are opened, or refused in one line.

Each is inspected and opened by a process that watches itself (`fuzz_worker`, `fuzz_case`). What must not happen: a line
of code that is in the file runs, anything but an `InputError` of one printable line comes out, a call takes more than
five seconds (of a usual machine, see `pace`), the memory grows by more than three times the file and a constant, or a
file is written. A mutant is told by its form and its number, and is the same wherever these are.

`make test` opens twenty-five of each form, the slow set four hundred. To look at one:

    python tests/fuzz/fuzz_worker.py FOLDER <<< "74 75 own zip"
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_case import CONSTANT, Report, digest
from fuzz_client import PATIENCE, Worker
from fuzz_format import WHOLE, Format, write_files
from fuzz_misbehaving import DEEDS
from mutate_pickles import EXECUTING
from mutate_text import EVIL, MARKER
from run_redteam import redteam

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux does")
QUICK, SLOW = 25, 400
FORMATS = (
    *("safetensors", "zip", "own zip", "legacy", "directory", "bin", "adapter", "adapter bin"),
    *("gguf", "quantised", "pictures", "texts", "questions", "arrays", "labelled", "manifest"),
)
each_format = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(tmp_path_factory.mktemp("fuzz"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    from fuzzed_formats import build_formats

    return build_formats(tmp_path_factory.mktemp("whole"))


def problems(reports: list[Report]) -> list[str]:
    return [f"{report.format} {report.number}: {problem}" for report in reports for problem in report.problems]


@each_format
def test_what_is_whole_is_opened(worker: Worker, name: str) -> None:
    """Or every mutant would be refused for nothing."""
    (report,) = worker.examine(name, range(WHOLE, WHOLE + 1))
    assert not report.problems
    assert report.opened
    assert report.growth < CONSTANT // 2


@each_format
def test_some_mutants(worker: Worker, name: str) -> None:
    reports = worker.examine(name, range(QUICK))
    assert not problems(reports)
    assert any(not report.opened for report in reports)


@pytest.mark.slow
@each_format
def test_many_mutants(worker: Worker, name: str) -> None:
    reports = worker.examine(name, range(SLOW))
    assert not problems(reports)
    opened = sum(report.opened for report in reports)
    assert 0.01 * SLOW < opened < 0.5 * SLOW, "damage that is always noticed, or never, finds nothing"
    assert len({outcome for report in reports for outcome in report.outcomes}) > 25, "one refusal hides what is behind"


@pytest.mark.slow
def test_hangs_are_noticed(worker: Worker) -> None:
    python, c = worker.examine("misbehaving", range(DEEDS.index("hangs"), len(DEEDS)))
    told = re.fullmatch(r"hung for ([\d.]+) s of the processor, or ([\d.]+) s", *python.problems)
    assert told is not None
    assert 5 <= float(told[1]) == float(told[2]) / 2
    assert c.problems == [f"did not come back within {PATIENCE:.0f} s"]
    assert worker.examine("manifest", range(WHOLE, WHOLE + 1))[0].opened


@pytest.mark.parametrize("payload", EXECUTING, ids=lambda payload: payload[:20].decode("latin1").replace("\n", " "))
def test_every_payload_would_run(tmp_path: Path, payload: bytes) -> None:
    """Where nothing stops it; or that nothing runs would say nothing."""
    write_files(tmp_path, {"evil.py": EVIL, "p": b"\x80\x02" + payload + b"."})
    program = "import pickle; pickle.load(open('p', 'rb'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / MARKER).exists(), done.stderr


@each_format
def test_a_number_says_which_mutant(worker: Worker, formats: dict[str, Format], name: str) -> None:
    """In another process too."""
    reports = worker.examine(name, range(5))
    assert [report.digest for report in reports] == [digest(formats[name].mutant(number)) for number in range(5)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        *[pytest.param(name, range(1), id=name) for name in ("safetensors", "directory", "manifest")],
        *[pytest.param(name, range(1, 5), id=f"more {name}", marks=pytest.mark.slow) for name in FORMATS[:8]],
    ],
)
def test_the_command_shows_one_line(formats: dict[str, Format], name: str, numbers: range, tmp_path: Path) -> None:
    for number in numbers:
        write_files(tmp_path / "case", formats[name].mutant(number))
        done = redteam("inspect", tmp_path / "case" / formats[name].opened)
        assert done.returncode in (0, 2)
        assert "Traceback" not in done.stderr + done.stdout
        if done.returncode == 2:
            assert done.stderr.startswith("error: ")
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_small_files_that_are_large_in_memory_or_take_for_ever(worker: Worker, formats: dict[str, Format]) -> None:
    held = formats["bombs"].held  # type: ignore[attr-defined]
    reports = dict(zip(held, worker.examine("bombs", range(len(held))), strict=True))
    assert not {title: report.problems for title, report in reports.items() if report.problems}
    opened = [title for title, report in reports.items() if report.opened]
    assert opened == []


def test_what_must_not_happen_is_noticed(worker: Worker) -> None:
    found = dict(zip(DEEDS, worker.examine("misbehaving", range(DEEDS.index("hangs"))), strict=False))
    assert {deed: len(report.problems) for deed, report in found.items()} == {
        **dict.fromkeys(found, 1),
        "nothing": 0,
    }
    assert "KeyError" in found["raises"].problems[0]
    assert "refused in 2003 characters" in found["refuses at length"].problems[0]
    assert "PanicException" in found["panics"].problems[0]
    assert "MiB" in found["takes memory"].problems[0]
    assert found["runs code"].problems == [f"wrote {MARKER}"]
    assert found["writes beside"].problems == ["wrote beside"]
    assert found["writes into"].problems == ["wrote into"]
    assert "printed" in found["prints"].problems[0]
    assert found["ends the process"].problems == ["ended the process with -11"]
