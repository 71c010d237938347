"""Runs that were recorded before events had a schema are judged to what they were judged to then.

`recorded/` holds three real runs, each as a baseline (plan, events, scores and `results.json`) and its certificate. A
language model and a classifier were attacked through their weights, a language model through text alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from redteam.evidence.baseline import evidence_at
from redteam.evidence.certificate import Certificate, read_certificate
from redteam.evidence.log import read_events, read_samples
from redteam.evidence.results import Results
from redteam.evidence.sealed import SealedRun, open_runs, open_sealed
from redteam.judging.certify import objections
from redteam.judging.compare import compare
from redteam.judging.together import judged_again

FOLDER = Path(__file__).with_name("recorded")
RUNS = ("classifier", "language", "text")
each_run = pytest.mark.parametrize("name", RUNS)


@contextmanager
def recorded(name: str) -> Iterator[tuple[Path, Certificate]]:
    with evidence_at(FOLDER / f"{name}.zip") as run:
        yield run, read_certificate(FOLDER / f"{name}.certificate.json")


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Yields where two parsed files differ; numbers may by as much as another order of additions makes of them."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key, "missing"), other.get(key, "missing"), f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{place}: {one} and {other}"
    elif one != other or type(one) is not type(other):
        yield f"{place}: {one} and {other}"


def unordered(results: Any) -> Any:
    """Results with their flags sorted: the table of checks may grow, and its order with it."""
    for capability in results["capabilities"]:
        capability["flags"].sort(key=lambda flag: (flag["name"], flag["explanation"]))
    return results


@each_run
def test_it_is_judged_to_the_same_results(name: str) -> None:
    with recorded(name) as (run, _):
        before = json.loads(Results.model_validate_json((run / "results.json").read_text()).model_dump_json())
        now = json.loads(judged_again(open_runs(run)).model_dump_json())
    assert list(differences(unordered(before), unordered(now))) == []


@each_run
def test_its_certificate_follows_from_it_until_it_expires(name: str) -> None:
    with recorded(name) as (run, certificate):
        claimed = certificate.predicate
        assert list(objections(certificate, run, claimed.issued)) == []
        later = claimed.expires + timedelta(days=1)
        assert list(objections(certificate, run, later)) == [f"it expired on {claimed.expires}"]


@each_run
def test_it_compares_with_itself(name: str) -> None:
    path = FOLDER / f"{name}.zip"
    (found,) = compare(path, path)
    assert found.old == found.new
    assert found.change in ("no worse", "undecided")


@each_run
def test_its_lines_are_written_again_byte_for_byte(name: str) -> None:
    with recorded(name) as (run, _):
        events, samples = (run / "events.jsonl").read_bytes(), (run / "samples.jsonl").read_bytes()
    again = [event.as_row() for event in read_events(events, Path("events.jsonl"))]
    assert "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in again).encode() == events
    kept = [sample.scores for sample in read_samples(samples, Path("samples.jsonl"))]
    assert kept == [json.loads(line)["scores"] for line in samples.splitlines()]


def opened(name: str) -> SealedRun:
    with recorded(name) as (run, _):
        return open_sealed(run)


def test_what_is_read_of_it_is_what_it_says() -> None:
    """Written down by hand, from the files."""
    text, classifier, language = (opened(name).evidence for name in ("text", "classifier", "language"))
    assert [len(run.search("target")) for run in (text, classifier, language)] == [6, 16, 16]
    assert [len(run.again("target")) > 0 for run in (text, classifier, language)] == [False, True, True]
    assert (text.capability.access, language.capability.access) == ("text", "weights")
    assert text.capability.attacks == ("in-context", "rephrase", "word-search")
    assert {trial.attack for trial in text.search("target")} <= set(text.capability.attacks)
    assert any(point.asked for trial in text.search("target") for point in trial.points)
    assert language.given.keys() == {"target", "original", "reference"}
    assert language.given["target"].files.keys() == {"facts-rmu.pt"}
    assert classifier.unprobed("target")
    assert all(run.before(role) is not None for run in (text, language) for role in ("original", "decoy", "target"))


@settings(max_examples=500, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_to_the_last_bit(number: float) -> None:
    """The parser is another one than the writer's."""
    assert from_json(json.dumps(number)) == number
