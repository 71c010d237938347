"""What goes wrong, in one line and with an exit code that is never mistaken for a verdict."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from redteam.errors import InputError
from redteam.exit_codes import ExitCode
from redteam.options import Format


@contextmanager
def errors_told(
    format: Format, after_interrupt: str = "nothing was written; the same command starts again"
) -> Iterator[None]:
    """Turns what goes wrong into one line and an exit code that is never mistaken for a verdict."""
    try:
        yield
    except InputError as error:
        _complain("input", str(error), format)
        raise typer.Exit(ExitCode.ERROR) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {after_interrupt}", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except typer.Exit:
        raise
    except SystemExit as error:  # of code that a user brought: its code is no verdict, least of all 0
        _complain("input", f"code that was run wanted to end the process (exit {error.code}). Correct it", format)
        raise typer.Exit(ExitCode.ERROR) from None
    except Exception as error:  # noqa: BLE001 - a bug of ours: it must not end in exit code 1, which a gate uses
        traceback.print_exc(file=sys.stderr)
        _complain("internal", f"{type(error).__name__}: {error}", format)
        raise typer.Exit(ExitCode.ERROR) from None


def _complain(kind: str, message: str, format: Format) -> None:
    if format is Format.JSON:
        typer.echo(json.dumps({"error": {"kind": kind, "message": message}}))
    typer.echo(f"error: {message}", err=True)
