"""What a gate decided as in-toto's own test-result statement, for verifiers that know no other.

Source: in-toto attestation framework, predicate type test-result v0.1.
"""

from __future__ import annotations

import json
from typing import Any

from redteam.evidence.certificate import STATEMENT, Certificate
from redteam.reporting.told import Outcome, told_by_certificate

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
RESULTS = {"passed": "PASSED", "failed": "FAILED", "undecided": "FAILED"}  # what cannot be told is not passed


def tested(certificate: Certificate) -> str:
    """Returns the statement: a test for each capability; what is waived, a warning."""
    told = told_by_certificate(certificate)

    def named(*outcomes: Outcome) -> list[str]:
        return [found.name for found, outcome in told.found if outcome in outcomes]

    result = RESULTS[certificate.predicate.decision]
    waived = named("waived")
    content: dict[str, Any] = {
        "_type": STATEMENT,
        "subject": [subject.model_dump() for subject in certificate.subject],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": "WARNED" if result == "PASSED" and waived else result,
            "configuration": [
                {"name": run.result.name, "digest": {"sha256": run.plan.capability[1]}}
                for run in certificate.predicate.runs
            ],
            "passedTests": named("passed"),
            "warnedTests": waived,
            "failedTests": named("failed", "undecided"),
        },
    }
    return json.dumps(content, indent=2) + "\n"
