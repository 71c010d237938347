"""What the terminal says of the attacks of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from redteam.evidence.results import CapabilityResult, Probed, Scores, Tried, WithExamples
from redteam.record import Interval
from redteam.reporting.attacks import attacks_table
from redteam.reporting.console import curve_table
from redteam.reporting.probes import probes_table


def told(*, width: int = 100, with_examples: Sequence[WithExamples] = (), **tried: Any) -> list[str]:
    """The lines of the table."""
    by_name = {name: Tried(**fields) for name, fields in tried.items()}
    capability = CapabilityResult.model_construct(tried=by_name, with_examples=with_examples)
    table = attacks_table(capability)
    assert table is not None
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def tried(best: float | None, reference: float | None = 0.1, **changes: Any) -> dict[str, Any]:
    return {"trials": 4, "failed": 0, "best": best, "reference": reference, "idle": None, **changes}


def test_the_strongest_attack_comes_first_with_the_longest_bar() -> None:
    lines = told(steer=tried(0.25), lora=tried(1.0), ablate=tried(0.5))
    assert [line.split()[0] for line in lines[1:]] == ["lora", "ablate", "steer"]
    assert [line.count("▇") for line in lines[1:]] == [20, 10, 5]
    assert lines[1].split()[1:4] == ["4", "1.00", "0.10"]


def test_an_attack_that_did_nothing_has_no_bar_but_a_reason() -> None:
    lines = told(
        lora=tried(0.4), suffix=tried(0.4, idle="not tried"), prune=tried(None), evil=tried(0.2, idle="\x1b[31m[red]no")
    )
    by_name = {line.split()[0]: line for line in lines[1:]}
    assert by_name["suffix"].endswith("not tried")
    assert "▇" not in by_name["suffix"]
    assert by_name["prune"].endswith("no setting kept utility")
    assert "\x1b" not in "".join(lines)
    assert "[red]no" in by_name["evil"]  # text, never markup


def test_who_has_a_few_examples_has_columns_of_his_own() -> None:
    """Two adversaries searched with each attack; one that needs examples was not searched with by the other."""
    few = WithExamples.model_construct(count=4)
    lines = told(
        width=80,
        with_examples=[few],
        head=tried(0.75, 0.05, best_with_examples=0.5, reference_with_examples=0.45),
        imprint=tried(None, None, best_with_examples=0.8, reference_with_examples=0.45),
        prune=tried(None, None, idle="not tried"),
    )
    assert " ".join(lines[0].split()) == "searched with trials target never knew + examples never knew"
    assert lines[1].split()[:-1] == ["imprint", "4", "0.80", "0.45"]
    assert lines[2].split()[:-1] == ["head", "4", "0.75", "0.05", "0.50", "0.45"]
    assert lines[1].index("0.80") == lines[2].index("0.50")
    assert [line.count("▇") for line in lines[1:]] == [10, 9, 0]
    assert lines[3].endswith("not tried")


def test_probes_say_what_they_read_and_which_were_handed_the_original() -> None:
    read = {"original": 1.0, "target": 0.55, "reference": 0.1}
    share = Interval(estimate=0.5, low=0.4, high=0.6)
    common = {"accuracy": read, "control": {"target": 0.07}, "layer": {}, "leakage": share}
    probes = {"linear": Probed(**common), "patching": Probed(**common, decides=False)}
    table = probes_table(CapabilityResult.model_construct(probes=probes))
    assert table is not None
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    headings = ["original", "target", "never knew", "shuffled", "of it in target"]
    ends = [lines[0].index(heading) + len(heading) for heading in headings]
    assert [lines[1][:end].split()[-1] for end in ends] == ["1.00", "0.55", "0.10", "0.07", "50%"]
    assert lines[1].split() == ["linear", "1.00", "0.55", "0.10", "0.07", "50%"]
    assert lines[2].split() == ["patching", "1.00", "0.55", "0.10", "0.07", "(50%)"]
    assert lines[3].startswith("(in brackets: the probe was handed the original)")
    assert probes_table(CapabilityResult.model_construct(probes={})) is None


def test_the_longest_curve_that_recipes_train_fits_a_terminal() -> None:
    """512 steps, up to a score of 1: in 80 columns no figure and no bar is cut off."""
    curve = [(0, 0.1), *((2**power, 0.1 * (power + 1)) for power in range(10))]
    scores = {role: Scores.model_construct(curve=curve) for role in ("target", "reference")}
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(curve_table(CapabilityResult.model_construct(scores=scores)))
    heading, *rows = console.export_text().splitlines()
    assert heading.split()[-1] == "512"
    for row in rows:
        assert row.split()[-2:] == ["1.0", "▁▁▂▃▄▅▅▆▇██"]


def test_canaries_are_read_in_place_of_a_reference() -> None:
    read = {"original": 1.0, "target": 0.55, "canary": 0.12}
    probed = Probed(accuracy=read, control={"target": 0.07}, layer={}, leakage=None)
    table = probes_table(CapabilityResult.model_construct(probes={"linear": probed}))
    assert table is not None
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table)
    assert console.export_text().splitlines()[1].split() == ["linear", "1.00", "0.55", "0.12", "0.07"]


def test_one_attack_needs_no_table() -> None:
    capability = CapabilityResult.model_construct(tried={"lora": Tried(**tried(0.5))})
    assert attacks_table(capability) is None
