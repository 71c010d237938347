"""What can be given on the command line, each option once: name, help, type."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from redteam.access import Access
from redteam.errors import InputError


class Format(StrEnum):
    """What goes to stdout."""

    TABLE = "table"
    JSON = "json"


class FollowUpStage(StrEnum):
    """What may follow a method."""

    RETAIN = "retain"
    MIXTURE = "mixture"


class Report(StrEnum):
    """Forms of a report; the last two are of a gate, and need a policy."""

    MD = "md"
    JUNIT = "junit"
    JSON = "json"
    HF = "hf"
    BADGE = "badge"
    ATTESTATION = "attestation"
    TEST_RESULT = "test-result"


class Pipeline(StrEnum):
    """Whose workflow is written."""

    GITHUB = "github"


class Kind(StrEnum):
    """What can be listed."""

    ATTACKS = "attacks"
    PROBES = "probes"
    SCORERS = "scorers"
    METHODS = "methods"
    TESTBEDS = "testbeds"


Checkpoint = Annotated[
    Path,
    typer.Argument(
        help="A .pt, .safetensors or .gguf file, the directory of a Hugging Face model or PEFT adapter,"
        " or hf://org/name@revision."
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="What goes to stdout.")]
Config = Annotated[Path | None, typer.Option(help="A config.json, if none lies beside it.")]

Target = Annotated[
    Path | None,
    typer.Argument(
        help="A .pt, .safetensors or .gguf file, the directory of a Hugging Face model or PEFT adapter,"
        " or hf://org/name@revision (default: as redteam.toml says, and the options with it)."
    ),
]
Budget = Annotated[int | None, typer.Option(help="Search trials on the target: the one dial (default: 100).")]
Capabilities = Annotated[
    list[Path] | None,
    typer.Option(
        "--capability", help="What was removed: a capability.toml; repeatable (default: as the manifest says)."
    ),
]
Original = Annotated[Path | None, typer.Option(help="The model before unlearning (default: as the manifest says).")]
Reference = Annotated[Path | None, typer.Option(help="A model that never knew (default: as the manifest says).")]
Base = Annotated[Path | None, typer.Option(help="Of a PEFT adapter: the model that it was trained on.")]
Arch = Annotated[str | None, typer.Option(help="Or your own FILE.py:FUNCTION that builds the classifier; it is run.")]
Attacks = Annotated[
    list[str] | None, typer.Option("-a", "--attack", help="An attack by name or file.py:Class; repeatable.")
]
Adversary = Annotated[
    Access | None,
    typer.Option("--access", help="What the adversary has; each has what comes after it too (default: weights)."),
]
Device = Annotated[
    str | None, typer.Option(help="Where models run: cpu, cuda, cuda:1, mps (default: the accelerators, if any).")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the run (default: 0).")]
RunPath = Annotated[Path | None, typer.Option("-o", "--out", help="Run directory (default: one under results/runs).")]

FinishedRun = Annotated[Path, typer.Argument(help="Run directory of `redteam attack`.")]
OldRun = Annotated[Path, typer.Argument(help="Run directory of the model before, or its baseline.")]
NewRun = Annotated[Path, typer.Argument(help="Run directory of the new model.")]
Waivers = Annotated[Path | None, typer.Option("--policy", help="policy.toml: its waivers let capabilities through.")]
BaselinePath = Annotated[Path, typer.Option("-o", "--out", help="The file.")]
Margin = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Excess recovery by which it may be worse, and still pass.")
]
ReportFormat = Annotated[Report, typer.Option("--format", help="What is printed.")]
RequiredGate = Annotated[Path, typer.Option("--policy", help="policy.toml: what a release must withstand.")]
Gate = Annotated[Path | None, typer.Option("--policy", help="policy.toml: what a release must withstand.")]
CertificatePath = Annotated[
    Path | None, typer.Option("-o", "--out", help="The certificate (default: certificate.json in the run).")
]
Signing = Annotated[
    str | None, typer.Option("--sign", help="A private key (PEM), or sigstore: a signed copy is written beside it.")
]
SigningKey = Annotated[Path | None, typer.Option("--key", help="The public key that must have signed it (PEM).")]
Identity = Annotated[str | None, typer.Option(help="Who must have signed it through sigstore; with --issuer.")]
Issuer = Annotated[str | None, typer.Option(help="Who vouches for that identity, an address.")]
Certificate = Annotated[Path, typer.Argument(help="A certificate.json of `redteam certify`.")]
EvidencePath = Annotated[
    Path | None, typer.Option("--run", help="Run directory (default: the one that the certificate is in).")
]
CertifiedModels = Annotated[
    list[Path] | None,
    typer.Option("--model", help="The checkpoint it must be about; of an adapter, its base after it. Repeatable."),
]

Ci = Annotated[
    Pipeline | None, typer.Option("--ci", help="Write a workflow that runs the gate, and a policy.toml; ask nothing.")
]
Extend = Annotated[
    Path | None, typer.Option(help="A run that is over: go on with it, by so many trials as --budget says (+50).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be run and what it could show. Run nothing.")]

MethodName = Annotated[str, typer.Argument(help="A name from `redteam list methods`.")]
ModelPath = Annotated[
    Path, typer.Option("-o", "--out", help="model.pt, model.safetensors, or a directory (Hugging Face form).")
]
Testbed = Annotated[str, typer.Option(help="A name from `redteam list testbeds`.")]
WorldSeed = Annotated[int, typer.Option("--seed", help="Seed of world, training and method.")]
LabelFraction = Annotated[
    float, typer.Option(help="Share of the forget set that is labelled; the rest is mixed into what must stay.")
]
Then = Annotated[FollowUpStage | None, typer.Option(help="Fine-tune afterwards: on what must stay, or as in training.")]
MethodOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method; repeatable.")
]

OnlyTestbeds = Annotated[list[str] | None, typer.Option("--testbed", help="Only this testbed; repeatable.")]
OnlyMethods = Annotated[list[str] | None, typer.Option("--method", help="Only this method; repeatable.")]
LabelFractions = Annotated[
    list[float] | None,
    typer.Option("--label-fraction", help="Instead of the standard variations; repeatable."),
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Instead of the standard ones; repeatable.")]
TableBudget = Annotated[int, typer.Option("--budget", help="Search trials on each target.")]
Jobs = Annotated[int, typer.Option("-j", "--jobs", help="Processes, one thread each.")]
TablesPath = Annotated[Path, typer.Option("-o", "--out", help="Where rows, leaderboard and claims go.")]
OnlyWrite = Annotated[bool, typer.Option("--only-write", help="Write the tables from the rows there are.")]

Digest = Annotated[bool, typer.Option("--digest", help="Find the digest of large files too.")]
ListedKind = Annotated[Kind, typer.Argument(help="What to list.")]
ShownName = Annotated[str, typer.Argument(help="A name that `redteam list` prints, or FILE.py:Class of your own.")]


def pair(text: str) -> tuple[str, str]:
    """Splits NAME=VALUE.

    Raises:
        InputError: it names no value.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text} names no value", "Write it as NAME=VALUE")
    return name.strip(), value.strip()
