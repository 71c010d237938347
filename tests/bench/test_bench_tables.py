"""What is written about the rows: leaderboard, claims and the six questions."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from bench_rows import CHANCE, recovery, row, spread
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from redteam.bench.claims import check, claims
from redteam.bench.leaderboard import leaderboard, leaderboard_json
from redteam.bench.plan import Cell
from redteam.bench.publish import publish
from redteam.bench.questions import questions
from redteam.bench.rows import Row, failed_row, read_row, read_rows
from redteam.bench.run import TARGETS, Places, identity_of, is_recorded
from redteam.bench.summary import interval, summarise
from redteam.errors import InputError
from redteam.judging.statistics import mean_over_seeds


def table_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    section = text.split(heading, 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


# Figures over seeds.


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda v: statistics.pstdev(v) > 1e-6))
def test_the_interval_over_seeds_is_that_of_the_t_test(values: list[float]) -> None:
    oracle = ttest_1samp(values, 0).confidence_interval(0.95)
    ours = mean_over_seeds(values)
    assert ours.estimate == pytest.approx(statistics.fmean(values))
    assert (ours.low, ours.high) == (pytest.approx(oracle.low, abs=1e-9), pytest.approx(oracle.high, abs=1e-9))


def test_one_seed_has_no_interval() -> None:
    bounds = mean_over_seeds([0.5])
    assert (bounds.low, bounds.high) == (-math.inf, math.inf)
    assert interval(bounds) == "0.50"


def test_a_figure_that_a_seed_lacks_is_not_averaged_over_the_others() -> None:
    rows = [row(seed=0), row(seed=1, excess=None)]
    (summary,) = summarise(rows)
    assert summary.excess is None
    assert summary.before is not None


def test_a_seed_that_failed_is_counted_and_never_a_score() -> None:
    (summary,) = summarise([row(seed=0, after=0.9), row(seed=1, error="rmu diverged")])
    assert summary.after is not None
    assert summary.after.estimate == 0.9
    assert summary.verdicts == "1 recovered, 1 failed"
    assert "1 failed" in leaderboard([row(seed=0), row(seed=1, error="rmu diverged")])
    assert "rmu diverged" in leaderboard_json([row(seed=1, error="rmu diverged")])


@pytest.mark.parametrize(
    ("each", "said"),
    [([4, 8, 16], "8"), ([4, 8, None], "8"), ([4, None, None], "> 128"), ([None, None, None], "> 128")],
)
def test_steps_are_a_median_in_which_never_is_longest(each, said: str) -> None:
    rows = [row(seed=n, steps={"0.5": steps, "0.8": None, "0.9": None}) for n, steps in enumerate(each)]
    assert summarise(rows)[0].steps("0.5") == said


# The leaderboard.


def test_the_hardest_come_first_and_what_is_not_defined_last() -> None:
    rows = [
        *(row("rmu", seed=n, after=0.9) for n in range(3)),
        *(row("filtered", seed=n, before=0.06, after=0.06) for n in range(3)),
        *(row("tar", seed=n, after=0.5) for n in range(3)),
        *(row("ga", seed=n, after=0.07, excess=None) for n in range(3)),
    ]
    names = [cells[0] for cells in table_of(leaderboard(rows), "## facts")][1:]
    assert names == ["**filtered**", "**tar**", "**rmu**", "**ga**"]


def test_partial_labels_and_stages_are_in_the_json_alone() -> None:
    rows = [row(seed=0), row(seed=0, label_fraction=0.5), row(seed=0, then="retain")]
    assert len(table_of(leaderboard(rows), "## facts")) == 2
    variants = {entry["variant"] for entry in json.loads(leaderboard_json(rows))["targets"]}
    assert variants == {"facts-rmu", "facts-rmu-0.5", "facts-rmu-then-retain"}


def test_every_row_of_a_table_has_as_many_cells_as_its_heading() -> None:
    text = leaderboard([row(seed=n) for n in range(3)]) + claims([row(seed=n) for n in range(3)])
    blocks = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert blocks
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) == 1


def test_what_was_set_in_a_world_is_said_below_its_table() -> None:
    made = row(seed=0).model_copy(update={"identity": {"suite": "s", "budget": 1, "settings": {"alpha": 30.0}}})
    assert "Options other than the defaults: rmu: alpha=30.0." in leaderboard([made])
    assert "Options other than" not in leaderboard([row(seed=0)])


# Claims.


def holds(rows: list[Row], word: str) -> bool | None:
    (claim,) = [claim for claim in check(rows) if word in claim.text]
    return claim.holds


@pytest.mark.parametrize(
    ("method", "after", "expected"),
    [
        ("sgtm", [0.06, 0.07, 0.05], True),
        ("sgtm", [0.06, 0.07, 0.14], False),  # one seed above chance is enough
        ("filtered", [0.06, 0.02, 0.05], False),  # below chance is not within it either
        ("rmu", [0.9, 0.8, 0.2], True),
        ("rmu", [0.9, 0.8, 0.08], False),  # its interval reaches down to chance
    ],
)
def test_a_claim_is_about_every_seed(method: str, after: list[float], expected: bool) -> None:
    rows = [row(method, seed=n, after=value) for n, value in enumerate(after)]
    assert holds(rows, f"`facts`, {method}:") is expected


def test_a_claim_needs_three_seeds_to_hold_and_one_to_fall() -> None:
    assert holds([row("sgtm", seed=n, after=0.06) for n in range(2)], "`facts`, sgtm:") is None
    assert holds([row("sgtm", seed=0, after=0.5)], "`facts`, sgtm:") is False
    assert holds([row("sgtm", seed=n, error="diverged") for n in range(3)], "`facts`, sgtm:") is False


def test_a_claim_without_rows_is_not_measured_and_one_with_a_failed_seed_does_not_hold() -> None:
    assert holds([], "`facts`, sgtm:") is None
    rows = [row("sgtm", seed=0, after=0.06), row("sgtm", seed=1, error="diverged")]
    assert holds(rows, "`facts`, sgtm:") is False
    assert "not measured" in claims([row("rmu")])


@pytest.mark.parametrize(
    ("healed", "retrained", "expected"),
    [
        ([0.9, 0.92, 0.88], [0.4, 0.5, 0.45], True),
        ([0.9, 0.2, 0.88], [0.4, 0.5, 0.45], False),  # the interval of the difference contains zero
        ([0.4, 0.4, 0.4], [0.5, 0.5, 0.6], False),
    ],
)
def test_healing_is_compared_seed_by_seed(healed: list[float], retrained: list[float], expected: bool) -> None:
    rows = [row("potion", "poison", n, label_fraction=0.25, healed=value) for n, value in enumerate(healed)]
    rows += [row("filtered", "poison", n, label_fraction=0.25, healed=value) for n, value in enumerate(retrained)]
    assert holds(rows, "25% identified: potion") is expected
    assert holds(rows, "25% identified: ssd") is None


# Questions.


def test_every_question_has_a_section_and_says_what_is_missing() -> None:
    text = questions([])
    assert [line[3] for line in text.splitlines() if line.startswith("## ")] == list("123456")
    assert text.count("Nothing was measured") == 6


def test_tamper_resistance_is_compared_in_steps_and_censoring_is_an_inequality() -> None:
    def steps(value: int | None) -> dict[str, int | None]:
        return {"0.5": value, "0.8": None, "0.9": None}

    rows = [row("rmu", seed=n, steps=steps(4)) for n in range(3)]
    rows += [row("tar", seed=n, steps=steps(value)) for n, value in enumerate([12, None, 2])]
    text = questions(rows)
    assert "to 50%: TAR takes 3, more than 32, 0.5 times the steps of RMU" in text
    assert "to 80%: TAR takes an unknown number of, an unknown number of" in text


def test_only_targets_that_score_alike_before_the_attack_are_paired() -> None:
    rows = [row("sgtm", seed=n, before=0.06, after=0.06) for n in range(3)]
    rows += [row("tar", seed=n, before=0.10, after=0.5) for n in range(3)]
    rows += [row("rmu", seed=n, before=0.40, after=0.9) for n in range(3)]
    text = questions(rows)
    assert (
        "facts-tar against facts-sgtm: +0.04 [+0.04, +0.04] before the attack, +0.44 [+0.44, +0.44] after it." in text
    )
    assert "facts-rmu against" not in text


def test_partial_labels_are_listed_with_the_whole() -> None:
    rows = [row("rmu", seed=0), row("ssd", seed=0), row("rmu", seed=0, label_fraction=0.5, before=0.6)]
    lines = table_of(questions(rows), "## 5.")
    assert [cells[1:4] for cells in lines[1:]] == [["rmu", "0.5", "0.60"], ["rmu", "1", "0.30"]]


def test_what_a_stage_changes_is_paired_on_the_seeds() -> None:
    """0.1 and 0.1: the seeds agree on the change, though the scores themselves differ by 0.3."""
    rows = [row("ssd", seed=0, before=0.1), row("ssd", seed=1, before=0.4)]
    assert " against " not in questions(rows).partition("## 3.")[0]
    rows += [row("ssd", seed=seed, then="retain", before=before) for seed, before in ((0, 0.2), (1, 0.5))]
    section = questions(rows).partition("## 2.")[2].partition("## 3.")[0]
    assert "- facts-ssd-then-retain against facts-ssd: forget score +0.10 [+0.10, +0.10], " in section
    mixed = [row("ssd", seed=seed, then="mixture", before=before) for seed, before in ((0, 0.1), (1, 0.0))]
    section = questions(rows + mixed).partition("## 6.")[2]
    assert "- facts-ssd-then-mixture against facts-ssd-then-retain: forget score -0.30 [" in section


def test_partial_labels_are_held_against_filtering_that_was_told_as_much() -> None:
    rows = [row("routing", seed=n, label_fraction=0.5, after=0.3 + n / 10) for n in range(2)]
    rows += [row("filtered", seed=n, label_fraction=0.5, after=0.5 + n / 10) for n in range(2)]
    rows += [row("filtered", seed=n, label_fraction=0.0) for n in range(2)]
    rows += [row("routing", seed=n, label_fraction=0.1) for n in range(2)]
    section = questions(rows).partition("## 5.")[2].partition("## 6.")[0]
    assert [line for line in section.splitlines() if line.startswith("- ")] == [
        "- facts, 50% labelled, routing against filtered: -0.20 [-0.20, -0.20] after the attack."
    ]


# Rows on disk.


def test_rows_survive_the_disk(tmp_path: Path) -> None:
    for made in (row(seed=0), row(seed=1, error="no"), row(seed=2, after=0.1)):
        (tmp_path / f"{made.of.name}.json").write_text(made.model_dump_json())
    assert [found.of.seed for found in read_rows(tmp_path)] == [0, 1, 2]
    assert read_rows(tmp_path)[0] == row(seed=0)
    assert read_row(tmp_path / "other.json") is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"cell": {}, "identity": {}, "more": 1}', "\xff"])
def test_a_broken_row_is_refused_and_kept(text: str, tmp_path: Path) -> None:
    path = tmp_path / "facts-rmu-seed0.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="is no row of the table"):
        read_row(path)
    assert path.exists()


def test_a_row_of_another_budget_or_version_is_not_taken_for_this_one(tmp_path: Path) -> None:
    cell, places = Cell(testbed="facts", method="rmu"), Places(results=tmp_path)
    assert not is_recorded(cell, places, 12)
    path = places.row(cell)
    path.parent.mkdir()
    path.write_text(failed_row(cell, identity_of(cell, 12), "no").model_dump_json())
    assert is_recorded(cell, places, 12)
    assert not is_recorded(cell, places, 13)
    other = identity_of(cell, 12)
    other["versions"]["method:rmu"] += 1
    path.write_text(failed_row(cell, other, "no").model_dump_json())
    assert not is_recorded(cell, places, 12)


def test_a_row_is_told_apart_by_what_its_method_applies_and_by_the_stage_after_it() -> None:
    def versions(**cell: str) -> set[str]:
        return set(identity_of(Cell(testbed="facts", **cell), 12)["versions"])

    plain = versions(method="rmu")
    assert versions(method="rmu", then="retain") - plain == {"stage"}
    assert versions(method="routing-rmu") - plain == {"method:routing-rmu", "method:routing"}
    assert versions(method="undo") >= {"method:undo", "method:npo"}  # the first step that this world sets


def test_tables_are_written_from_the_rows_there_are(tmp_path: Path) -> None:
    places = Places(results=tmp_path)
    (tmp_path / TARGETS).mkdir()
    made = row(seed=0)
    made = made.model_copy(update={"identity": identity_of(made.of, 12)})
    other = row("tar", seed=0)  # of no identity that there is now: left where it is, and out of the tables
    for one in (made, other):
        (tmp_path / TARGETS / f"{one.of.name}.json").write_text(one.model_dump_json())
    written = publish([made.of], places, budget=12, jobs=1, only_write=True)
    assert {path.name for path in written} == {"leaderboard.md", "leaderboard.json", "claims.md"}
    assert "**rmu**" in (tmp_path / "leaderboard.md").read_text()
    assert "**tar**" not in (tmp_path / "leaderboard.md").read_text()
    with pytest.raises(InputError, match="of this budget and these versions, but 2 others"):
        publish([made.of], places, budget=11, jobs=1, only_write=True)
    assert not list(tmp_path.glob("*.part"))


def test_nothing_to_write_or_to_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no rows"):
        publish([Cell(testbed="facts", method="rmu")], Places(results=tmp_path), budget=1, jobs=1, only_write=True)
    with pytest.raises(InputError, match="no method of these"):
        publish([], Places(results=tmp_path), budget=1, jobs=1)
    with pytest.raises(InputError, match="budget is 0"):
        publish([Cell(testbed="facts", method="rmu")], Places(results=tmp_path), budget=0, jobs=1)


def test_chance_is_what_the_world_says() -> None:
    """The rows made by hand stand for `facts`."""
    assert recovery().chance == CHANCE == 1 / 16
    assert spread(0.5).high == 0.53
