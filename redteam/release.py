"""`redteam certify`, `verify` and `report`: from the evidence of a run to what a release stands on, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from redteam.atomic import write
from redteam.checkpoints.digest import weight_files
from redteam.config.policy import Rules, read_policy
from redteam.errors import InputError
from redteam.evidence.certificate import Certificate, read_certificate
from redteam.evidence.sealed import SealedRun, open_runs
from redteam.evidence.signed import is_signed, objection, sign
from redteam.exit_codes import ExitCode
from redteam.judging.certify import certificate_of, objections
from redteam.judging.gate import gate
from redteam.judging.together import judged_again
from redteam.options import Report
from redteam.reporting.badge import badge
from redteam.reporting.card import card
from redteam.reporting.certified import print_certificate, print_objections
from redteam.reporting.github import summarise
from redteam.reporting.junit import junit
from redteam.reporting.markdown import markdown
from redteam.reporting.tested import tested
from redteam.reporting.told import Told, told_by_certificate, told_by_run

CERTIFICATE, SIGNED = "certificate.json", ".signed.json"
TOLD: dict[Report, Callable[[Told], str]] = {
    Report.MD: markdown,
    Report.JUNIT: junit,
    Report.HF: card,
    Report.BADGE: badge,
}


def certify(
    run: Path,
    rules: Rules,
    out: Path | None = None,
    signing: str | None = None,
    runs: Sequence[SealedRun] | None = None,
) -> tuple[Certificate, Path]:
    """Judges a run by a policy, and writes the certificate. Nothing is run or loaded.

    Args:
        run: its directory.
        rules: the policy.
        out: where the certificate goes; by default beside the evidence.
        signing: how it is signed, see `sign`, into a second file beside the first; None if it is not.
        runs: what is in the directory, where that was read already.

    Returns:
        The certificate, which holds the exit code, and where it is.

    Raises:
        InputError: as `gate`; or it cannot be signed.
    """
    certificate = certificate_of(gate(runs or open_runs(run), rules, datetime.now(UTC).date()))
    path = out or run / CERTIFICATE
    write(path, certificate.as_text())
    if signing is not None:
        write(path.with_suffix(SIGNED), sign(certificate.as_text(), signing))
    return certificate, path


def show_certificate(certificate: Certificate, path: Path, console: Console) -> int:
    """Prints a certificate, in a workflow of GitHub its summary too, and returns the exit code that it holds."""
    print_certificate(certificate, path, console)
    for line in summarise(told_by_certificate(certificate), os.environ):
        print(line, file=console.file)
    return certificate.predicate.exit_code


def report(run: Path, form: Report, policy: Path | None = None) -> str:
    """Returns what a run found in one of the forms; what the gate decides if there is a policy.

    Raises:
        InputError: as `gate`; or a statement about a gate is asked for without a policy.
    """
    runs = open_runs(run)
    if policy is None:
        results = judged_again(runs)
        if form is Report.JSON:
            return results.model_dump_json(indent=2) + "\n"
        if form in (Report.ATTESTATION, Report.TEST_RESULT):
            raise InputError(f"{form} is about a gate", "Give --policy policy.toml")
        return TOLD[form](told_by_run(results))
    certificate = certificate_of(gate(runs, read_policy(policy), datetime.now(UTC).date()))
    if form in (Report.JSON, Report.ATTESTATION):
        return certificate.as_text()
    return tested(certificate) if form is Report.TEST_RESULT else TOLD[form](told_by_certificate(certificate))


def verify(
    path: Path,
    console: Console,
    *,
    run: Path | None = None,
    models: Sequence[Path] = (),
    policy: Path | None = None,
    key: Path | None = None,
    identity: tuple[str, str] | None = None,
) -> int:
    """Says whether a certificate follows from its evidence. Returns 0 if it does, else 1.

    Args:
        path: of the certificate.
        console: where it is said.
        run: the directory of the evidence; by default that of the certificate.
        models: the checkpoint that it must be about, and of an adapter the model that it is put on.
        policy: the `policy.toml` that it must have been judged by.
        key: the public key that it must have been signed with.
        identity: or who must have signed it through sigstore, and the issuer who vouches for that.

    Raises:
        InputError: the certificate, the checkpoint, the policy or the key cannot be read.
    """
    certificate = read_certificate(path)
    found = list(objections(certificate, run or path.parent, datetime.now(UTC).date()))
    if models:
        found += _other_weights(certificate, models)
    if policy is not None and read_policy(policy).model_dump(mode="json") != certificate.predicate.policy:
        found.append(f"it was judged by another policy than {policy}")
    content = json.loads(path.read_text(encoding="utf-8"))
    checked = key is not None or identity is not None
    if checked and (wrong := objection(content, key, identity)) is not None:
        found.insert(0, wrong)
    print_objections(path, certificate, found, console)
    if is_signed(content) and not checked:
        console.print("its signature was not checked: give --key, or --identity and --issuer", style="yellow")
    return ExitCode.FAILED if found else ExitCode.PASSED


def _other_weights(certificate: Certificate, models: Sequence[Path]) -> list[str]:
    """Returns the files that are not those that were attacked."""
    first, *bases = (weight_files(model) for model in models)
    given = first | {f"base/{name}": digest for base in bases for name, digest in base.items()}
    attacked = {subject.name: subject.digest.get("sha256") for subject in certificate.subject}
    names = sorted({*given, *attacked})
    return [
        f"{name} {'is not the file that was attacked' if name in given and name in attacked else _missing(name, given)}"
        for name in names
        if given.get(name) != attacked.get(name)
    ]


def _missing(name: str, given: dict[str, str]) -> str:
    return "was not attacked" if name in given else "was attacked, and is not there"
