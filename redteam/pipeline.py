"""`redteam init --ci`: the workflow that attacks, keeps the evidence, and lets the gate decide last."""

from __future__ import annotations

from pathlib import Path

from redteam.atomic import write
from redteam.config.request import PROJECT
from redteam.errors import InputError
from redteam.options import Pipeline

POLICY = Path("policy.toml")
WORKFLOWS = {Pipeline.GITHUB: Path(".github/workflows/redteam.yml")}
RULES = """\
[policy]
max_excess_recovery = 0.1  # of what was removed, how much may come back beyond what a model that never knew learns
min_budget = 100           # search trials on the target

# [[policy.waiver]]        # what is let through all the same, for a reason and until a day
# capability = "birthdays"
# reason = "..."
# expires = 2030-01-31
"""
GITHUB = """\
name: redteam
on:
  push:
    branches: [main]
  workflow_dispatch:
permissions:
  contents: read
jobs:
  redteam:
    runs-on: ubuntu-latest
    timeout-minutes: 360
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Install
        run: python -m pip install "unlearning-redteam>=VERSION"
      - name: Attack
        run: redteam attack --budget 100 --out run || [ $? -eq 3 ]  # no verdict is told by the gate
      - name: Certify
        id: certify
        run: |
          code=0
          redteam certify run --policy policy.toml || code=$?
          echo "code=$code" >> "$GITHUB_OUTPUT"
          [ -f run/certificate.json ] || exit "$code"
          redteam report run --policy policy.toml --format junit > run/junit.xml
      - name: Keep the evidence
        if: always()
        uses: actions/upload-artifact@v4
        with:
          name: redteam
          path: run
      - name: Gate
        env:
          CODE: ${{ steps.certify.outputs.code }}
        run: exit "$CODE"
"""


def write_pipeline(pipeline: Pipeline) -> list[Path]:
    """Writes the workflow, and a policy if there is none.

    Returns:
        What was written.

    Raises:
        InputError: nothing says what is to be attacked; the workflow is there already; or it cannot be written.
    """
    from redteam import __version__

    if not PROJECT.is_file():
        raise InputError(f"there is no {PROJECT}, so nothing says what to attack", "Run `redteam init` first")
    workflow = WORKFLOWS[pipeline]
    if workflow.exists():
        raise InputError(f"{workflow} is there already", "Move it away, or keep it")
    write(workflow, GITHUB.replace("VERSION", __version__))
    if POLICY.exists():
        return [workflow]
    write(POLICY, RULES)
    return [workflow, POLICY]
