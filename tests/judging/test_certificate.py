"""A certificate follows from its evidence, or is told that it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import MASKED, NEVER_TRAINED, PLAN, VERSION, Attack, Model, World, record

import redteam.evidence
from redteam.config.policy import Rules, Waiver
from redteam.declared import Declared
from redteam.errors import InputError
from redteam.evidence.certificate import PREDICATE, STATEMENT, Certificate, read_certificate
from redteam.evidence.directory import EVENTS, SAMPLES
from redteam.evidence.sealed import open_runs
from redteam.judging.certify import certificate_of, limitations, objections
from redteam.judging.gate import gate
from redteam.registry import Registry

TODAY = date(2026, 3, 1)
SCHEMA = Path(redteam.evidence.__file__).with_name("certificate.schema.json")
WAIVER = Waiver(capability="birthdays", reason="known, and fixed in the next release", expires=TODAY)


def certified(run: Path, **rules: Any) -> Certificate:
    return certificate_of(gate(open_runs(run), Rules(**rules), TODAY))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("certified") / "run", NEVER_TRAINED, whole=True)


@pytest.fixture(scope="module")
def certificate(run: Path) -> Certificate:
    return certified(run, max_excess_recovery=0.2)


def test_it_is_a_statement_about_the_weights(certificate: Certificate) -> None:
    said = json.loads(certificate.as_text())
    assert said["_type"] == STATEMENT
    assert said["predicateType"] == PREDICATE
    assert said["subject"] == [{"name": "target.pt", "digest": {"sha256": "t"}}]
    predicate = said["predicate"]
    assert (predicate["decision"], predicate["exit_code"]) == ("passed", 0)
    assert predicate["issued"] == "2026-03-01"
    assert predicate["expires"] == "2027-03-01"
    assert predicate["runs"][0]["result"]["verdict"] == "RESISTED"
    assert predicate["runs"][0]["plan"]["budget"] == PLAN.budget
    assert predicate["runs"][0]["models"]["reference"] == {"name": "reference.pt", "sha256": "r"}


def test_it_is_of_the_published_schema(certificate: Certificate) -> None:
    """`make schema` writes it."""
    assert json.loads(SCHEMA.read_text()) == Certificate.model_json_schema(by_alias=True)
    jsonschema.validate(json.loads(certificate.as_text()), json.loads(SCHEMA.read_text()))


def test_it_is_read_as_it_was_written(certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(certificate.as_text())
    assert read_certificate(tmp_path / "c.json") == certificate


def test_it_follows_from_its_evidence(certificate: Certificate, run: Path) -> None:
    assert list(objections(certificate, run, TODAY)) == []
    assert list(objections(certificate, run, certificate.predicate.expires)) == []


def test_it_expires(certificate: Certificate, run: Path) -> None:
    (told,) = objections(certificate, run, certificate.predicate.expires + timedelta(days=1))
    assert told == "it expired on 2027-03-01"
    (told,) = objections(certificate, run, TODAY - timedelta(days=1))
    assert "yet to come" in told


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the places of all values of a certificate."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, (*path, key))
    else:
        yield path


def changed(content: Any, path: tuple[Any, ...]) -> Any:
    """Returns a copy in which one value is another of its kind."""
    copied = json.loads(json.dumps(content))
    inside = copied
    for key in path[:-1]:
        inside = inside[key]
    value = inside[path[-1]]
    other = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value + 0.01,
        str: lambda: OTHERS.get(value, value + "x"),
        type(None): lambda: 0.5,
    }
    inside[path[-1]] = other[type(value)]()
    return copied


OTHERS = {
    "passed": "failed",
    "RESISTED": "RECOVERED",
    "2026-03-01": "2026-02-28",
    "2027-03-01": "2037-03-01",
    "weights": "text",
    "exact": "at least",
    "at least": "exact",
    "undefined": "exact",
}


SAME = [("_type",), ("predicate", "policy", "min_budget"), ("predicate", "policy", "access")]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_it_is_noticed(certificate: Certificate, run: Path, data: st.DataObject) -> None:
    """All but where it was judged, which its evidence cannot say, and a policy by which it would be judged the same."""
    content = json.loads(certificate.as_text())
    places = [path for path in leaves(content) if path[:2] != ("predicate", "environment") and path not in SAME]
    assert len(places) > 150
    path = data.draw(st.sampled_from(places))
    try:
        claimed = Certificate.model_validate(changed(content, path))
    except ValueError:
        return  # it is no certificate any more
    assert list(objections(claimed, run, TODAY)), path


def test_the_order_of_flags_is_no_claim(tmp_path: Path) -> None:
    """Older releases listed them in another. That one is there or not is a claim."""
    world = NEVER_TRAINED.without("original", "decoy").change("target", failed=2)
    run = record(tmp_path / "run", world, whole=True)
    content = json.loads(certified(run).as_text())
    flags = content["predicate"]["runs"][0]["result"]["flags"]
    assert len(flags) == 3
    flags.reverse()
    assert list(objections(Certificate.model_validate(content), run, TODAY)) == []
    flags.pop()
    assert list(objections(Certificate.model_validate(content), run, TODAY))


def test_a_verdict_that_was_turned_is_named(run: Path) -> None:
    fails = certificate_of(gate(open_runs(record(run.parent / "masked", MASKED, whole=True)), Rules(), TODAY))
    content = json.loads(fails.as_text())
    content["predicate"] |= {"decision": "passed", "exit_code": 0}
    content["predicate"]["runs"][0]["result"]["verdict"] = "RESISTED"
    told = list(objections(Certificate.model_validate(content), run.parent / "masked", TODAY))
    assert 'predicate.decision is claimed to be "passed"; its evidence says "failed"' in told
    assert 'predicate.runs[0].result.verdict is claimed to be "RESISTED"; its evidence says "RECOVERED"' in told


@pytest.mark.parametrize("file", [EVENTS, SAMPLES])
def test_evidence_that_was_changed_afterwards_is_noticed(file: str, tmp_path: Path) -> None:
    """Even where it was sealed again: the certificate knows what it was."""
    where = record(tmp_path / "run", NEVER_TRAINED, whole=True)
    before = certified(where)
    content = (where / file).read_text()
    (where / file).write_text(content.replace("0.08", "0.07", 1).replace("[1,", "[0,", 1))
    (told,) = objections(before, where, TODAY)
    assert f"{file} is not what it was when the run ended" in told
    rows = (where / EVENTS).read_text().splitlines(keepends=True)[:-1]
    (where / EVENTS).write_text("".join(rows))
    from redteam.evidence.directory import RunDirectory

    with RunDirectory(where, PLAN) as again:
        again.finish()
    told_now = list(objections(before, where, TODAY))
    assert any("evidence.events.jsonl is claimed to be" in line for line in told_now)


def test_other_evidence_is_not_its_own(certificate: Certificate, tmp_path: Path) -> None:
    other = record(tmp_path / "other", MASKED, whole=True)
    assert any("runs[0].result.verdict" in line for line in objections(certificate, other, TODAY))
    (told,) = objections(certificate, tmp_path / "nowhere", TODAY)
    assert "is no run directory" in told


def test_a_waiver_is_said_and_the_certificate_counts_no_longer_than_it(tmp_path: Path) -> None:
    where = record(tmp_path / "run", MASKED, whole=True)
    last = TODAY + timedelta(days=1)
    waived = certified(where, waiver=[WAIVER.model_copy(update={"expires": last})])
    assert waived.predicate.decision == "passed"
    assert waived.predicate.expires == last
    assert waived.predicate.runs[0].waiver is not None
    assert any("Let through by a waiver" in line for line in waived.predicate.limitations)
    assert list(objections(waived, where, last)) == []
    said = f"it needs the waiver of 'birthdays', which expired on {last}"
    assert list(objections(waived, where, date(2026, 12, 1))) == [f"it expired on {last}", said]
    older = waived.predicate.model_copy(update={"expires": TODAY + timedelta(days=365)})
    told = list(objections(waived.model_copy(update={"predicate": older}), where, date(2026, 12, 1)))
    assert told[0] == said


def test_a_waiver_that_was_not_needed_shortens_nothing(tmp_path: Path) -> None:
    resisted = certified(record(tmp_path / "run", NEVER_TRAINED, whole=True), waiver=[WAIVER])
    assert resisted.predicate.runs[0].result.verdict == "RESISTED"
    assert resisted.predicate.expires == TODAY + timedelta(days=365)
    assert list(objections(resisted, tmp_path / "run", date(2026, 12, 1))) == []


def test_it_counts_for_as_many_days_as_the_policy_says_where_the_waiver_holds_longer(tmp_path: Path) -> None:
    later = WAIVER.model_copy(update={"expires": date(2030, 1, 1)})
    waived = certified(record(tmp_path / "run", MASKED, whole=True), waiver=[later], valid_days=10)
    assert waived.predicate.expires == TODAY + timedelta(days=10)


def test_attacks_that_got_better_since_are_what_it_expires_for(
    run: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another release cannot certify this evidence; what was certified while it was current counts until it expires."""
    newer = Declared({"version": VERSION + 1}, {}, {}, {})
    monkeypatch.setattr(Registry, "declared", lambda self, name: newer)
    with pytest.raises(InputError, match="is a run of retrain"):
        certified(run)
    assert list(objections(certificate, run, TODAY)) == []


def test_what_it_does_not_say_is_said(tmp_path: Path) -> None:
    alone = World(models=NEVER_TRAINED.models).without("reference", "decoy")
    told = limitations(gate(open_runs(record(tmp_path / "run", alone, whole=True)), Rules(), TODAY))
    assert "Without a model that never knew it nothing can be claimed of: birthdays." in told
    assert any("a search of 6 trials" in line for line in told)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "{" * 2000, '{"_type": "https://in-toto.io/Statement/v0.1"}', "\x00", '{"a": NaN}']
)
def test_what_is_no_certificate_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"Give a certificate\.json that"):
        read_certificate(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_certificate(tmp_path / "nowhere.json")


def test_what_looking_again_cost_is_said_and_the_intervals_are_wider(tmp_path: Path) -> None:
    once = certified(record(tmp_path / "once", MASKED, whole=True))
    plan = PLAN.model_copy(update={"extends": (2, 4)})
    thrice = certified(record(tmp_path / "thrice", MASKED, plan, whole=True))
    assert not any("is look" in line for line in once.predicate.limitations)
    (told,) = (line for line in thrice.predicate.limitations if "is look 3" in line)
    assert "judged at 0.9875" in told
    assert "wrong in at most 8.75% of runs" in told
    one, three = (c.predicate.runs[0].result.excess_recovery for c in (once, thrice))
    assert one is not None
    assert three is not None
    assert (three.low, three.high) != (one.low, one.high)
    assert three.low <= one.low <= one.high <= three.high
    assert list(objections(thrice, tmp_path / "thrice", TODAY)) == []


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("reference",), "canaries stood for a model that never knew"),
        (("original", "decoy"), "The model before unlearning was not given"),
    ],
)
def test_what_canaries_cannot_exclude_is_said(tmp_path: Path, missing: tuple[str, ...], said: str) -> None:
    canary = Model(before=0.05, attacks=(Attack(after=0.08),))
    world = World(models={**MASKED.without(*missing).models, "canary": canary})
    made = certified(record(tmp_path / "run", world, whole=True))
    assert any(said in line for line in made.predicate.limitations)
    assert list(objections(made, tmp_path / "run", TODAY)) == []
