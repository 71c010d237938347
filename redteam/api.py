"""`redteam.certify`, `redteam.compare` and `redteam.inspect`: the commands of the same names, from Python.

None of them runs a model, and none needs torch, unless a checkpoint can be read in no other way.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from redteam import release
from redteam.checkpoints.inspect import Inspected, inspect_checkpoint
from redteam.config.policy import read_policy
from redteam.evidence.certificate import Certificate
from redteam.judging import compare as comparison
from redteam.judging.compare import MARGIN, Compared


def certify(
    run: Path | str, policy: Path | str, *, out: Path | str | None = None, sign: str | None = None
) -> Certificate:
    """Judges the stored evidence of a run by a policy, and writes the certificate.

    Args:
        run: the directory of a run that is over.
        policy: a `policy.toml`.
        out: where the certificate is written; by default `certificate.json` in the run's directory.
        sign: how to sign it, into a second file beside the first: the path of a private key, or "sigstore".

    Returns:
        The certificate. `certificate.predicate` holds the decision, the exit code and what was found.

    Raises:
        InputError: the run is not over or was changed, the policy cannot be used, or the certificate cannot be written.
    """
    place = None if out is None else Path(out)
    return release.certify(Path(run), read_policy(Path(policy)), place, sign)[0]


def compare(
    old: Path | str, new: Path | str, *, margin: float = MARGIN, policy: Path | str | None = None
) -> list[Compared]:
    """Says for each capability whether a new model is worse than an old one, on the same items.

    Args:
        old: the run directory of the old model, or its baseline.
        new: the run directory of the new model, or its baseline.
        margin: by how much excess recovery may grow, and the new model still count as no worse.
        policy: a `policy.toml`, for its waivers.

    Raises:
        InputError: a run is not over or was changed, the two cannot be compared, or a waiver has expired.
    """
    rules = None if policy is None else read_policy(Path(policy))
    return comparison.compare(Path(old), Path(new), margin, rules, datetime.now(UTC).date())


def inspect(checkpoint: Path | str, *, config: Path | str | None = None, digest: bool = False) -> Inspected:
    """Says what a checkpoint is, and what is missing to attack it. No weight is loaded.

    Args:
        checkpoint: of any form, or the address of one on the Hugging Face hub.
        config: a `config.json`, for a checkpoint that has none beside it.
        digest: compute the digest of the weights, even where that takes long.

    Raises:
        InputError: it is no checkpoint.
    """
    described = None if config is None else Path(config)
    return inspect_checkpoint(Path(checkpoint), config=described, digest=digest)
