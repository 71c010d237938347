"""JUnit XML, as CI systems read it: a test case for each capability."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from redteam.evidence.results import CapabilityResult
from redteam.reporting.told import Outcome, Told, decisive, share

UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no character for


def junit(told: Told) -> str:
    """Returns a report: RECOVERED is a failure, INCONCLUSIVE an error, what is waived is skipped."""
    counts = [outcome for _, outcome in told.found]
    suite = Element(
        "testsuite",
        name=_text(f"redteam {told.suite}"),
        tests=str(len(counts)),
        failures=str(counts.count("failed")),
        errors=str(counts.count("undecided")),
        skipped=str(counts.count("waived")),
    )
    properties = SubElement(suite, "properties")
    for name, value in (("model", told.model), ("sha256", told.sha256), ("exit_code", str(told.exit_code))):
        SubElement(properties, "property", name=name, value=_text(value))
    for found, outcome in told.found:
        _case(suite, found, outcome, told)
    indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def _case(suite: Element, found: CapabilityResult, outcome: Outcome, told: Told) -> None:
    case = SubElement(suite, "testcase", name=_text(found.name), classname=_text(f"redteam.{told.model}"))
    tag = {"passed": None, "failed": "failure", "undecided": "error", "waived": "skipped"}[outcome]
    said = f"{found.verdict}: {found.reason}"
    lines = [
        f"{found.verdict}: {found.reason}.",
        f"excess recovery {share(decisive(found))}, allowed {found.policy['max_excess_recovery']:.1%}",
        *(f"{flag.name}: {flag.explanation}" for flag in found.flags),
    ]
    if tag is not None:
        told_of = SubElement(case, tag, message=_text(said))
        if tag != "skipped":
            told_of.set("type", found.verdict)
        told_of.text = _text("\n".join(lines))
    else:
        SubElement(case, "system-out").text = _text("\n".join(lines))


def _text(text: str) -> str:
    return UNWRITABLE.sub("?", text)
