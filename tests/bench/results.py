"""From figures to lines: medians over the rounds, the best peer, the ratio, met or not."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.rows import Measurement, Row

# For each measurement and side, what each round gave.
Figures = Mapping[Measurement, Mapping[str, list[dict[str, float]]]]


@dataclass(frozen=True)
class Line:
    """A row with its figures; None where nothing could be measured."""

    row: Row
    ours: float | None
    reference: float | None
    reference_name: str
    peers: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """Return our figure divided by the reference."""
        if self.ours is None or not self.reference:
            return None
        return self.ours / self.reference

    @property
    def met(self) -> bool | None:
        """Return whether the target is met; None where there is none, or nothing to compare."""
        value = self.ours if self.row.against is None else self.ratio
        if self.row.limit is None or value is None:
            return None
        return self.row.meets(value)


def line(row: Row, figures: Figures) -> Line:
    """Return the line of one row."""
    rounds = figures[row.measurement]
    medians = {side: _median(results, row.figure) for side, results in rounds.items()}
    peers = {
        side: value
        for side, value in medians.items()
        if value is not None and not side.startswith("ours")
    }
    ours = medians.get(row.ours)
    if row.against == "peers":
        best = max if row.higher_is_better else min
        name = best(peers, key=peers.get, default="")
        return Line(row, ours, peers.get(name), name, peers)
    if row.against is None:
        return Line(row, ours, None, "", peers)
    own = _median(rounds.get(row.ours, []), row.against)
    return Line(row, ours, own, row.against, peers)


def _median(results: list[dict[str, float]], figure: str) -> float | None:
    values = [result[figure] for result in results if figure in result]
    return statistics.median(values) if values else None
