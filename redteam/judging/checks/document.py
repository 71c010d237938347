"""`docs/flags.md`, as `make flags` writes it from the table of checks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from redteam.judging.case import Case
from redteam.judging.checks import policy
from redteam.judging.checks.check import ANY, Check
from redteam.judging.checks.table import CHECKS
from redteam.judging.verdict import NARROW

HEAD = """# Flags

A run checks itself. What it finds against itself is a flag, and a flag can only weaken a verdict. The flags of the
first table stand in the way of any verdict, those of the second only in the way of RESISTED: an attack that brought the
capability back brought it back, whatever else is wrong. Where several flags are raised, the first of them in these
tables is the reason that is given with the verdict. Shares and numbers of facts are those of the standard policy.
"""
TYPED = re.compile(r"(?<!\S)(--?[a-z]+|[a-z]+\.jsonl)")  # what a reader types, or finds as a file


def flags_document(checks: Sequence[Check[Case]] = CHECKS) -> str:
    """Returns the document: what each flag means, when it is raised, and what to do about it."""
    against_any = [check for check in checks if check.blocks == ANY]
    against_resisted = [check for check in checks if check.blocks != ANY]
    of_policy = ", ".join(f"`{check.name}`" for check in policy.CHECKS)
    return f"""{HEAD}
## No verdict

{_table(against_any)}
## No RESISTED

{_table(against_resisted)}
These flags say that a run is smaller than its policy asks (`redteam certify`):
{of_policy}.

Without any flag a verdict can still be INCONCLUSIVE: the interval of excess recovery contains what is tolerated.
To settle it, {_marked(NARROW)}.
"""


def _table(checks: Sequence[Check[Case]]) -> str:
    rows = [f"| `{check.name}` | {check.when} | {_marked(check.remedy)} |\n" for check in checks]
    return "".join(["| flag | raised if | what to do |\n", "| --- | --- | --- |\n", *rows])


def _marked(text: str) -> str:
    return TYPED.sub(r"`\1`", text)


if __name__ == "__main__":
    print(flags_document(), end="")
