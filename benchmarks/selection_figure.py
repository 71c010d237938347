"""The picture of `selection`: what a run that chooses and judges on different facts says, and one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

DESIGNS = {
    "": ("chosen on select, judged on certify", "#0b7285"),
    "naive: ": ("best trial, judged by its own items", "#c92a2a"),
}
KEPT = (0.93, 0.98)  # what coverage must lie between


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws bias and coverage of both designs over what the best configuration truly brings back, as SVG.

    Args:
        rows: of `selection`.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "selection", "svg.fonttype": "none", "font.size": 9}):
        figure, (bias, coverage) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
        truth = [row["best configuration brings back"] for row in rows]
        order = sorted(range(len(rows)), key=truth.__getitem__)
        for prefix, (label, color) in DESIGNS.items():
            for axes, name in ((bias, "bias"), (coverage, "coverage")):
                values = [rows[place][prefix + name] for place in order]
                axes.plot([truth[place] for place in order], values, "o-", color=color, label=label)
        bias.axhline(0, color="#868e96", linewidth=0.8)
        bias.set_ylabel("excess recovery: measured less true")
        coverage.axhspan(*KEPT, color="#868e96", alpha=0.2, linewidth=0)
        coverage.axhline(0.95, color="#868e96", linewidth=0.8)
        coverage.set_ylabel("the 95 % interval holds the truth")
        for axes in (bias, coverage):
            axes.set_xlabel("score that the best configuration brings back")
            axes.spines[["top", "right"]].set_visible(False)
        bias.legend(frameon=False, loc="center right")
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
