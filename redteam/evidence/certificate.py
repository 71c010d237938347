"""The certificate: an in-toto statement of what a run found, judged by a policy.

The form is that of in-toto's attestation framework, Statement v1; what the statement says is of our own type, whose
schema is `certificate.schema.json` beside this file.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from redteam.errors import InputError
from redteam.evidence.directory import RunPlan
from redteam.evidence.results import CapabilityResult
from redteam.evidence.signed import is_signed, statement_in
from redteam.record import Record

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:unlearning-redteam:certificate:v1"
LARGEST = 64 * 2**20  # bytes of a certificate

Decision = Literal["passed", "failed", "undecided"]


class Subject(Record):
    """One file of the weights, or a module that has none.

    Attributes:
        name: of the file within its checkpoint.
        digest: "sha256" of its bytes; of a module "tensors-sha256" of names, dtypes, shapes and bytes of its tensors.
    """

    name: str
    digest: dict[str, str]


class Waived(Record):
    """Why a capability was let through whatever was found."""

    reason: str
    expires: date


class CertifiedRun(Record):
    """One capability, and what its verdict follows from.

    Attributes:
        plan: what was run.
        fingerprint: SHA-256 of the plan.
        evidence: SHA-256 of the run's files, by name.
        environment: where it was run: versions and machine.
        models: original and reference, by role: name and SHA-256.
        waiver: None where what was found decides.
        result: what was found, by the policy.
    """

    plan: RunPlan
    fingerprint: str
    evidence: dict[str, str]
    environment: dict[str, str]
    models: dict[str, dict[str, str]]
    waiver: Waived | None
    result: CapabilityResult


class Predicate(Record):
    """What is certified.

    Attributes:
        decision: whether the release may stand on it.
        exit_code: the same, as `redteam certify` ends.
        issued: the day of the judgement.
        expires: the last day on which it counts: attacks get better.
        policy: what was asked.
        runs: one for each capability.
        limitations: what it does not say.
        environment: where it was judged.
    """

    decision: Decision
    exit_code: Literal[0, 1, 3]
    issued: date
    expires: date
    policy: dict[str, Any]
    runs: list[CertifiedRun] = Field(min_length=1)
    limitations: list[str]
    environment: dict[str, str]


class Certificate(Record):
    """An in-toto Statement v1."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[Subject] = Field(min_length=1)
    predicate_type: Literal["urn:unlearning-redteam:certificate:v1"] = Field(alias="predicateType")
    predicate: Predicate

    @classmethod
    def of(cls, subject: list[Subject], predicate: Predicate) -> Certificate:
        """Returns the statement that a predicate makes about files."""
        return cls.model_validate(
            {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}
        )

    def as_text(self) -> str:
        """Returns the certificate as it is written."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"


def read_certificate(path: Path) -> Certificate:
    """Reads a certificate, of a signed one the statement in it.

    Raises:
        InputError: it is missing, too large, or not of this form.
    """
    remedy = "Give a certificate.json that `redteam certify` wrote"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        return Certificate.model_validate(statement_in(content) if is_signed(content) else content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "the top level"
        raise InputError(f"{path} is no certificate ({where}: {first['msg'][:200]})", remedy) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})", remedy) from error


if __name__ == "__main__":
    print(json.dumps(Certificate.model_json_schema(by_alias=True), indent=2))
