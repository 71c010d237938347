"""What can be given on the command line, each option once. Those of a run are made from `RunRequest`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from redteam.config.request import RunRequest, flags_of, surface
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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be run and what it could show. Run nothing.")]

MethodName = Annotated[str, typer.Argument(help="A name from `redteam list methods`.")]
ModelPath = Annotated[
    Path, typer.Option("-o", "--out", help="model.pt, model.safetensors, or a directory (Hugging Face form).")
]
Testbed = Annotated[str, typer.Option(help="A name from `redteam list testbeds`.")]
WorldSeed = Annotated[int, typer.Option("--seed", help="Seed of world, training and method.")]
References = Annotated[
    int, typer.Option(min=1, help="So many models that never knew; five of them tell how such models differ.")
]
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


Given = dict[str, Any]  # values of the options of a run that were given, by field of `RunRequest`


def takes_request(*fields: str, form: type[RunRequest] = RunRequest) -> Callable[[Callable[..., None]], Any]:
    """Puts the options of a run in the place of a command's parameter `given`, which gets what was given of them.

    Args:
        fields: of the form; all that the command line takes if none is named.
        form: `RunRequest`, or a form that has more fields.
    """
    known = {name: field for name, field in form.model_fields.items() if surface(field).command_line}
    asked = [_parameter(name, known[name]) for name in fields or known]

    def taking(command: Callable[..., None]) -> Callable[..., None]:
        names = {parameter.name for parameter in asked}

        def run(**values: Any) -> None:
            given: Given = {name: value for name, value in values.items() if name in names}
            command(given=given, **{name: value for name, value in values.items() if name not in names})

        given_to = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in given_to]
        parameters = [one for parameter in own for one in (asked if parameter.name == "given" else [parameter])]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return taking


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Returns the parameter of a command for a field: None where it is not given."""
    default = field.get_default()
    shown = f" (default: {default})" if isinstance(default, str | int) else ""
    text = f"{field.description}{' Repeatable.' if default == () else ''}{shown}"
    flags = flags_of(name, field)
    how = typer.Option(*flags, help=text) if flags else typer.Argument(help=text)
    kind: Any = Annotated[_terminal_type(field.annotation) | None, how]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _terminal_type(annotation: Any) -> Any:
    """Returns what the command line reads for a field: the first type that it may have, or a list of such."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return list[_terminal_type(parts[0])]  # type: ignore[misc]
    if origin in (Annotated, Union, types.UnionType):
        return _terminal_type(parts[0])
    return annotation


def pair(text: str) -> tuple[str, str]:
    """Splits NAME=VALUE.

    Raises:
        InputError: it names no value.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text} names no value", "Write it as NAME=VALUE")
    return name.strip(), value.strip()
