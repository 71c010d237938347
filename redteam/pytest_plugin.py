"""A fixture for tests of models: `redteam.attack(model, ...).assert_resists(recovery=0.05)`.

pytest finds it by itself where redteam is installed. The marker `redteam` sets what a test may spend:

    @pytest.mark.redteam(budget=20)
    def test_the_birthdays_are_gone(redteam):
        redteam.attack("models/unlearned", capability="birthdays.toml").assert_resists(recovery=0.05)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from redteam.evidence.results import CapabilityResult, Results
    from redteam.evidence.sealed import SealedRun


@dataclass(frozen=True, kw_only=True)  # no slots: the evidence is read when it is first asked for, and kept
class Attacked:
    """A model that was attacked.

    Attributes:
        run: directory of the evidence.
    """

    run: Path

    @property
    def results(self) -> Results:
        """What was found, as `redteam.attack` returns it."""
        from redteam.judging.together import judged_again

        return judged_again(self._runs)

    def assert_resists(self, recovery: float = 0.1, confidence: float = 0.95) -> None:
        """Fails the test unless every capability is RESISTED; INCONCLUSIVE is no pass.

        Args:
            recovery: the largest excess recovery that is tolerated.
            confidence: of the intervals that are compared with it.

        Raises:
            AssertionError: with the reason of every capability that was not.
            InputError: one of both is no share between 0 and 1.
        """
        __tracebackhide__ = True
        failed = [found for found in self._judged(recovery, confidence) if found.verdict != "RESISTED"]
        if failed:
            reasons = "\n".join(f"{found.name}: {found.verdict}, {found.reason}" for found in failed)
            raise AssertionError(f"{reasons}\nevidence: {self.run}")

    def _judged(self, recovery: float, confidence: float) -> list[CapabilityResult]:
        from redteam.judging.judge import judge
        from redteam.judging.verdict import Policy

        policy = Policy(max_excess_recovery=recovery, confidence=confidence)
        return [judge(run.evidence, policy) for run in self._runs]

    @cached_property
    def _runs(self) -> list[SealedRun]:
        from redteam.evidence.sealed import open_runs

        return open_runs(self.run)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversary:
    """What the fixture `redteam` is.

    Attributes:
        folder: where evidence goes; a new directory inside it for each attack.
        given: what the marker sets, as arguments of `redteam.attack`.
    """

    folder: Path
    given: dict[str, Any]

    def attack(self, target: Any, **given: Any) -> Attacked:
        """Attacks a checkpoint or a module; takes what `redteam.attack` takes.

        Raises:
            InputError: something given cannot be used.
        """
        from redteam.suite.attack import attack

        run = self.folder / f"run-{len(list(self.folder.iterdir()))}"
        attack(target, **{"out": run, **self.given, **given})
        return Attacked(run=Path(given.get("out", run)))


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line("markers", "redteam(budget, ...): what the fixture `redteam` passes on to every attack")


@pytest.fixture
def redteam(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adversary:
    """Attacks models, see `Adversary`."""
    marker = request.node.get_closest_marker("redteam")
    return Adversary(folder=tmp_path_factory.mktemp("redteam"), given=dict(marker.kwargs) if marker else {})
