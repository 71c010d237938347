"""The command line: parse, call, render. Everything heavy is imported inside the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from redteam import options
from redteam.errors import InputError
from redteam.exits import errors_told
from redteam.options import Format, Report

app = typer.Typer(
    name="redteam",
    help="How easily does an unlearned capability come back? Attack a model and find out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, or the gate is passed; 1 the gate is failed; 2 error; 3 inconclusive;"
    " 130 interrupted (the same command goes on).",
)


baselines = typer.Typer(no_args_is_help=True, help="Keep what a release withstood, to compare the next one with it.")
app.add_typer(baselines, name="baseline")


def _version(wanted: bool) -> None:
    if wanted:
        from redteam import __version__

        typer.echo(f"redteam {__version__}")
        raise typer.Exit


@app.callback()
def _redteam(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
@options.takes_request()
def attack(
    given: options.Given,
    policy: options.Gate = None,
    dry_run: options.DryRun = False,
    format: options.OutputFormat = Format.TABLE,
) -> None:
    """Attack an unlearned model and say how much of what was removed came back.

    Run the same command again to go on after an interruption. With --policy the exit code is that of the gate.
    """
    with errors_told(format, after_interrupt="the same command goes on from here"):
        from redteam.config.request import requested
        from redteam.run import attack_and_tell, plan_and_tell

        tell = plan_and_tell if dry_run else attack_and_tell
        code = tell(requested(given), format, policy)
    raise typer.Exit(code)


@app.command()
@options.takes_request("target", "capability", "original", "reference", "base", "config", "arch", "device")
def score(given: options.Given, format: options.OutputFormat = Format.TABLE) -> None:
    """Say what models score on what was removed, as they are. Nothing is attacked, and nothing follows from it."""
    with errors_told(format):
        from redteam.config.request import requested
        from redteam.score import score_and_tell

        score_and_tell(requested(given), format)


@app.command()
def certify(
    run: options.FinishedRun,
    policy: options.RequiredGate,
    out: options.CertificatePath = None,
    sign: options.Signing = None,
    format: options.OutputFormat = Format.TABLE,
) -> None:
    """Judge what a run found by a policy and write the certificate. Nothing is attacked or loaded.

    Exit codes: 0 every capability resists or is waived, 1 one was recovered, 3 one cannot be told.
    """
    with errors_told(format):
        from rich.console import Console

        from redteam.config.policy import read_policy
        from redteam.release import certify, show_certificate

        certificate, path = certify(run, read_policy(policy), out, sign)
        if format is Format.JSON:
            typer.echo(certificate.as_text(), nl=False)
        code = show_certificate(certificate, path, Console(stderr=format is Format.JSON))
    raise typer.Exit(code)


@app.command()
def verify(
    certificate: options.Certificate,
    run: options.EvidencePath = None,
    model: options.CertifiedModels = None,
    policy: options.Gate = None,
    key: options.SigningKey = None,
    identity: options.Identity = None,
    issuer: options.Issuer = None,
) -> None:
    """Say whether a certificate follows from its evidence, which is judged anew.

    Exit codes: 0 it does, 1 it does not.
    """
    with errors_told(Format.TABLE):
        from rich.console import Console

        from redteam.release import verify

        if (identity is None) != (issuer is None) or (key and identity):
            raise InputError("a signature is checked by --key, or by --identity and --issuer", "Give either, whole")
        signer = (identity, issuer) if identity and issuer else None
        code = verify(certificate, Console(), run=run, models=model or (), policy=policy, key=key, identity=signer)
    raise typer.Exit(code)


@app.command()
@options.takes_request("target", "capability", "base", "config", "arch", "device")
def replay(certificate: options.Certificate, given: options.Given) -> None:
    """Run the winning attack of a certificate again, on its seeds, and compare. Nothing is searched.

    Exit codes: 0 it does what is claimed, within the interval; 1 it does not; 3 there is none to run.
    """
    with errors_told(Format.TABLE):
        from rich.console import Console

        from redteam.again import replay_and_tell
        from redteam.config.request import requested

        code = replay_and_tell(certificate, requested(given), Console())
    raise typer.Exit(code)


@app.command()
def report(run: options.FinishedRun, format: options.ReportFormat = Report.MD, policy: options.Gate = None) -> None:
    """Print what a run found, for CI, a model card, a badge or a verifier. Nothing is attacked or loaded.

    Without --policy it is what `redteam attack` found; with it, what the gate decides.
    """
    with errors_told(Format.TABLE):
        from redteam.release import report

        typer.echo(report(run, format, policy), nl=False)


@app.command()
def compare(
    old: options.OldRun,
    new: options.NewRun,
    margin: options.Margin = 0.05,
    policy: options.Waivers = None,
    format: options.OutputFormat = Format.TABLE,
) -> None:
    """Say whether a new model is worse than an old one, on the same items. Nothing is attacked or loaded.

    Exit codes: 0 nowhere worse, 1 somewhere worse, 3 it cannot be told.
    """
    with errors_told(format):
        from datetime import UTC, datetime

        from rich.console import Console

        from redteam.config.policy import read_policy
        from redteam.judging.compare import compare, exit_code
        from redteam.reporting.compared import compared_json, print_compared

        rules = None if policy is None else read_policy(policy)
        found = compare(old, new, margin, rules, datetime.now(UTC).date())
        code = exit_code(found)
        if format is Format.JSON:
            typer.echo(compared_json(found, code), nl=False)
        else:
            print_compared(found, Console())
    raise typer.Exit(code)


@baselines.command("write")
def write_baseline(run: options.FinishedRun, out: options.BaselinePath = Path("redteam-baseline.zip")) -> None:
    """Pack the sealed evidence of a run into one file, to be kept with a release and compared with the next one.

    Then: redteam compare redteam-baseline.zip NEW_RUN
    """
    with errors_told(Format.TABLE):
        from redteam.evidence.baseline import write_baseline

        write_baseline(run, out)
        typer.echo(out)


@app.command()
def init(ci: options.Ci = None) -> None:
    """Ask a few questions and write redteam.toml and a first capability.toml: then `redteam attack` needs no more."""
    with errors_told(Format.TABLE):
        if ci is not None:
            from redteam.pipeline import write_pipeline

            typer.echo("\n".join(map(str, write_pipeline(ci))))
            typer.echo("Next: look at them, and commit them with redteam.toml", err=True)
            return
        from redteam.interview import ask_in_terminal, interview

        for path in interview(ask_in_terminal, lambda text: typer.echo(text, err=True)):
            typer.echo(path)
        typer.echo("Next: redteam attack", err=True)


@app.command()
def unlearn(
    method: options.MethodName,
    out: options.ModelPath,
    testbed: options.Testbed = "facts",
    seed: options.WorldSeed = 0,
    references: options.References = 1,
    label_fraction: options.LabelFraction = 1.0,
    then: options.Then = None,
    settings: options.MethodOptions = None,
) -> None:
    """Build an unlearned target, with its original and its references beside it.

    `redteam show METHOD` lists the options of a method; those of the stage after it begin with "then.".
    """
    with errors_told(Format.TABLE):
        from rich.console import Console

        from redteam.registry import METHODS, TESTBEDS
        from redteam.reporting.built import print_built
        from redteam.reporting.progress import BuildProgress

        METHODS.require(method)
        TESTBEDS.require(testbed)
        given = dict(options.pair(text) for text in settings or [])
        from redteam.checkpoints.trio import beside, roles_of
        from redteam.testbeds.build import build_target

        with BuildProgress(Console(stderr=True)) as progress:
            manifest = build_target(
                method, testbed=testbed, out=out, seed=seed, references=references, label_fraction=label_fraction,
                then=then.value if then else None, options=given, progress=progress,
            )  # fmt: skip
        print_built(manifest, {role: beside(out, role) for role in roles_of(references)}, Console())
        typer.echo(f"\nNext: redteam attack {out} --budget 100")


@app.command()
def bench(
    testbeds: options.OnlyTestbeds = None,
    methods: options.OnlyMethods = None,
    label_fractions: options.LabelFractions = None,
    seeds: options.Seeds = None,
    budget: options.TableBudget = 48,
    jobs: options.Jobs = 1,
    out: options.TablesPath = Path("results"),
    only_write: options.OnlyWrite = False,
) -> None:
    """Build every target of the debate, attack each, and write the leaderboard and the claims.

    Hours on two cores. What has a row is not run again, so the same command goes on after an interruption.
    """
    with errors_told(Format.TABLE, after_interrupt="the same command goes on from here"):
        from rich.console import Console

        from redteam.bench.plan import left_out, plan_cells
        from redteam.bench.publish import publish
        from redteam.bench.run import Places
        from redteam.reporting.progress import BenchProgress

        cells = plan_cells(testbeds or (), methods or (), label_fractions or (), seeds or ())
        for name in () if testbeds else left_out():
            typer.echo(f"{name} is left out: set REDTEAM_DATA to the folder of the real data", err=True)
        places = Places(results=out)
        with BenchProgress(Console(stderr=True), len(cells)) as progress:
            written = publish(cells, places, budget=budget, jobs=jobs, only_write=only_write, report=progress)
        for path in written:
            typer.echo(path)


@app.command()
@options.takes_request("config")
def inspect(
    checkpoint: options.Checkpoint,
    given: options.Given,
    digest: options.Digest = False,
    format: options.OutputFormat = Format.TABLE,
) -> None:
    """Say what a checkpoint is and what is missing to attack it. Nothing in it is run."""
    with errors_told(format):
        from rich.console import Console

        from redteam.checkpoints.inspect import inspect_checkpoint
        from redteam.reporting.inspected import print_inspected

        found = inspect_checkpoint(checkpoint, digest=digest, **given).as_json()
        if format is Format.JSON:
            typer.echo(json.dumps(found, indent=2))
        else:
            print_inspected(found, Console())


@app.command(name="list")
def list_kind(kind: options.ListedKind, format: options.OutputFormat = Format.TABLE) -> None:
    """List attacks, probes, methods or testbeds."""
    from redteam.listing import listed

    for line in listed(kind, format):
        typer.echo(line)


@app.command()
def show(name: options.ShownName) -> None:
    """Show what is known of an attack, probe, method or testbed, with the options of a method."""
    with errors_told(Format.TABLE):
        from rich.console import Console

        from redteam.listing import print_shown

        print_shown(name, Console())


if __name__ == "__main__":
    app()
