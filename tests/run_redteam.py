"""Runs the real command in a real process.

Most processes are forked from one that has the libraries loaded already (`multiprocessing`'s fork server): importing
torch and transformers anew takes longer than most of what is tested. `tests/test_cli.py` compares them with fresh
interpreters, and whatever is interrupted or killed is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory

COMMAND = [sys.executable, "-m", "redteam.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
LOADED = ["redteam.run", "redteam.suite.attack", "redteam.probes.linear", "transformers.models.llama.modeling_llama"]
LOADED += ["sklearn.linear_model", "scipy.stats", "sqlalchemy", "optuna", "peft", "jinja2", "rich.console"]
ONE_PROBE = ("--probe", "sampling")  # all of them take half of the time of a run of tiny models
Done = subprocess.CompletedProcess[str]


def redteam(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Runs `redteam` to its end, in a forked process, and returns what it printed and its exit code."""
    words = [*map(str, arguments)]
    with TemporaryDirectory() as folder:
        files = Path(folder) / "stdout", Path(folder) / "stderr"
        process = _server().Process(target=_run, args=(words, cwd, *files))
        process.start()
        process.join(timeout=1200)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, 1200)
        return Done([*COMMAND, *words], process.exitcode, *(file.read_text(encoding="utf-8") for file in files))


def redteam_afresh(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Runs `redteam` to its end in an interpreter of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200
    )


def start_redteam(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts `redteam` in an interpreter of its own and returns the running process."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@cache
def _server() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def _run(words: list[str], cwd: Path | None, stdout: Path, stderr: Path) -> None:
    """Is `python -m redteam.cli WORDS` in a process that was forked for it."""
    for stream, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd or Path.cwd())
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    sys.argv = ["redteam", *words]

    from redteam.cli import app

    app()
