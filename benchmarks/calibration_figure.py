"""The picture of `calibration`: errors of every regime beside what was promised, and what a run can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ERRORS = {"false RESISTED": "#c92a2a", "false RECOVERED": "#e8590c", "12 % RESISTED": "#862e9c"}
TOLD = {"0 % RESISTED": "#0b7285", "30 % RECOVERED": "#2b8a3e"}
PROMISED = 5.0  # %


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws errors and power of every regime, a line each, as SVG.

    Args:
        rows: of `calibration`.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "calibration", "svg.fonttype": "none", "font.size": 8}):
        height = 0.9 + 0.19 * len(rows)
        figure, (wrong, told) = pyplot.subplots(1, 2, figsize=(9, height), sharey=True, layout="constrained")
        lines = range(len(rows))
        for axes, series in ((wrong, ERRORS), (told, TOLD)):
            for name, color in series.items():
                axes.plot([100 * row[name] for row in rows], lines, "o", markersize=4, color=color, label=name)
            axes.grid(axis="y", color="#dee2e6", linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(
                frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series), handletextpad=0
            )
        wrong.axvline(PROMISED, color="#868e96", linewidth=0.8)
        wrong.set(xlabel="wrong, % of runs (promised: 5 at most)", xlim=(-0.2, 6))
        told.set(xlabel="right, % of runs", xlim=(-3, 103))
        wrong.set_yticks(list(lines), [row["regime"] for row in rows])
        wrong.invert_yaxis()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
