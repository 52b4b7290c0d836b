"""Separate what a station adds to the metric from what a program does.

A run is taken to be value(program) + level(station) + noise. The levels are estimated from differences within programs
that ran on several stations (Yates 1940, "The recovery of inter-block information in balanced incomplete block
designs", Annals of Eugenics 10: here programs are the blocks). What the sums leave over is the interaction: programs
that are better on one station than on another. Its variance is estimated by the method of moments (DerSimonian, Laird
1986, "Meta-analysis in clinical trials", Controlled Clinical Trials 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from agent.decision.estimate import groups_of, undisturbed_on_stations
from agent.decision.noise import Noise, is_less_stable, pooled, sd_within
from agent.journal.experiment import Direction, Experiment, Run, by_station, mean, metrics, succeeded

# Repetitions that the common noise of all stations counts for in the noise of one of them.
SHRINKAGE = 4.0
# Degrees of freedom of the assumption that stations agree.
AGREEMENT = 4.0
# Degrees of freedom of the interaction from which a session knows whether its stations agree.
SHOWN = 2

Cell = tuple[int, float]  # number of runs of one program on one station, and their mean


@dataclass(frozen=True)
class Records:
    """What the session knows about its stations.

    Attributes:
        groups: runs that succeeded, one group per program, the baseline first, without runs that chose a program
            (`records_of`).
        stations: those that take part now; empty for all that have run anything.
    """

    groups: Sequence[Sequence[Run]]
    direction: Direction
    stations: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> list[dict[str, list[Run]]]:
        return [by_station(group) for group in self.groups if group]

    @cached_property
    def reference(self) -> str:
        """The station whose scale the session's numbers are on: that of the baseline's first run."""
        return next((group[0].station for group in self.groups if group), "")

    @cached_property
    def present(self) -> tuple[str, ...]:
        return self.stations or tuple(dict.fromkeys(name for cell in self.cells for name in cell))

    @cached_property
    def repeated(self) -> list[list[Run]]:
        """Runs of one program on one station, two or more."""
        return [runs for cell in self.cells for runs in cell.values() if len(runs) > 1]

    @cached_property
    def noise(self) -> Noise:
        """The noise of one run, pooled over all stations."""
        first = next((metrics(cell[self.reference]) for cell in self.cells), [])
        scale = mean(first) if first else 0.0
        return pooled([metrics(runs) for runs in self.repeated], scale)

    def noise_on(self, station: str) -> Noise:
        """Return the noise of one run on a station, drawn to that of all stations while it is known from few runs."""
        return self._noises.get(station, self.noise)

    @cached_property
    def _noises(self) -> dict[str, Noise]:
        common, own = self.noise, dict[str, list[list[float]]]()
        for runs in self.repeated:
            own.setdefault(runs[0].station, []).append(metrics(runs))
        if common.exact or len(self.present) < 2:
            return {}
        found = {}
        for station, groups in own.items():
            sd, degrees = sd_within(groups)
            sd = math.hypot(math.sqrt(degrees) * sd, math.sqrt(SHRINKAGE) * common.sd) / math.sqrt(degrees + SHRINKAGE)
            found[station] = Noise(sd, min(degrees + SHRINKAGE, common.degrees), common.unsure)
        return found

    @cached_property
    def levels(self) -> Levels:
        return levels_of(self)

    def adding(self, runs: Sequence[Run]) -> Records:
        """Return the records with one more program, unless nothing but that program is random here."""
        return self if self.noise.exact else replace(self, groups=[*self.groups, runs])


@dataclass(frozen=True)
class Levels:
    """The levels of the stations that are connected with the reference by programs that ran on both.

    Attributes:
        values: station -> what it adds to the metric, compared with the reference station.
        covariance: the same order in both directions as `values`.
        excess: sum of squares of the interaction beyond what noise explains, in units of the noise's variance.
        weight: by how much that sum grows with the variance of the interaction.
        degrees: degrees of freedom of that sum.
    """

    values: Mapping[str, float]
    covariance: Sequence[Sequence[float]]
    excess: float = 0.0
    weight: float = 0.0
    degrees: int = 0

    @property
    def agree(self) -> bool:
        """Whether programs have shown, as far as noise allows, that better on one station is better on all."""
        return self.degrees >= SHOWN and self.excess <= math.sqrt(2 * self.degrees)

    def variance(self, weights: Mapping[str, float]) -> float:
        """Return the variance of a weighted sum of levels."""
        z = [weights.get(name, 0.0) for name in self.values]
        rows = zip(z, self.covariance, strict=True)
        return max(0.0, math.fsum(a * math.fsum(b * c for b, c in zip(z, row, strict=True)) for a, row in rows))


def interaction(levels: Levels, excess: float = 0.0, weight: float = 0.0) -> float:
    """Return the variance between stations of one program's value, given the excess of one more comparison as well."""
    weight += levels.weight
    return max(0.0, levels.excess + excess) / weight if weight else 0.0


def records_of(
    experiments: Iterable[Experiment],
    direction: Direction,
    candidates: Iterable[Sequence[Run]] = (),
    stations: Sequence[str] = (),
) -> Records:
    """Return the records of a session.

    Left out are discarded candidates that are certainly less stable than what was kept, as in `noise.repeated`.

    Args:
        candidates: the runs so far of candidates without a verdict, except for the one to be judged.
    """
    kept, discarded = list[Sequence[Run]](), list[Sequence[Run]]()
    for each in experiments:
        (kept if each.kept else discarded).extend(group for group in groups_of(each, undisturbed_on_stations) if group)
    found = Records(kept, direction, tuple(stations))
    found = replace(found, groups=[*kept, *(group for group in discarded if not _is_less_stable(group, found))])
    for runs in candidates:
        found = found.adding(undisturbed_on_stations(succeeded(runs)[1:]))
    return found


def _is_less_stable(group: Sequence[Run], records: Records) -> bool:
    """Return whether runs of a program on a station certainly differ by more than those of others there."""
    cells = by_station(group).items()
    return any(is_less_stable(records.noise_on(name), [metrics(runs)]) for name, runs in cells)


def levels_of(records: Records) -> Levels:
    """Estimate the levels by weighted least squares."""
    import numpy as np  # slow to import

    names = _connected(records)
    cells = [found for cell in records.cells if len(found := _cells(cell, names)) > 1]
    variance = {name: records.noise_on(name).variance or 1.0 for name in names}
    others = names[1:]
    if not others:
        return Levels(dict.fromkeys(names, 0.0), [[0.0]])
    place = {name: index for index, name in enumerate(others)}
    matrix = [[0.0] * len(others) for _ in others]
    right = [0.0] * len(others)
    for cell in cells:
        weights = {name: count / variance[name] for name, (count, _) in cell.items()}
        total = sum(weights.values())
        mean = sum(weights[name] * value for name, (_, value) in cell.items()) / total
        for name, (_, value) in cell.items():
            if name not in place:
                continue
            right[place[name]] += weights[name] * (value - mean)
            matrix[place[name]][place[name]] += weights[name]
            for other in cell:
                if other in place:
                    matrix[place[name]][place[other]] -= weights[name] * (weights[other] / total)
    inverse: list[list[float]] = np.linalg.inv(matrix).tolist()  # positive definite, since all are connected
    values = {names[0]: 0.0} | {
        name: math.fsum(a * b for a, b in zip(row, right, strict=True))
        for name, row in zip(others, inverse, strict=True)
    }
    covariance = [[0.0] * len(names), *([0.0, *row] for row in inverse)]
    return Levels(values, covariance, *_excess(cells, values, variance))


def aligned(experiments: Sequence[Experiment], records: Records) -> list[Experiment]:
    """Return copies of the experiments with each metric on the scale of the reference station, for proposers.

    Their runs name no station, so that they may be compared.

    Runs on a station whose level is unknown keep their metric.
    """

    def moved(runs: Iterable[Run]) -> tuple[Run, ...]:
        return tuple(_shifted(run, records.levels.values.get(run.station, 0.0)) for run in runs)

    return [replace(each, runs=moved(each.runs), heldout_runs=moved(each.heldout_runs)) for each in experiments]


def _shifted(run: Run, level: float) -> Run:
    metric, estimate = (None if value is None else value - level for value in (run.metric, run.estimate))
    return replace(run, metric=metric, estimate=estimate, station="")


def _cells(cell: Mapping[str, Sequence[Run]], names: Sequence[str]) -> dict[str, Cell]:
    return {name: (len(runs), mean(metrics(runs))) for name, runs in cell.items() if name in names}


def _connected(records: Records) -> list[str]:
    """Return the reference station and those that programs connect with it, in order of appearance."""
    names = [records.reference]
    for name in names:
        for cell in records.cells:
            if name in cell:
                names += [other for other in cell if other not in names]
    return names


def _excess(
    cells: Sequence[Mapping[str, Cell]], values: Mapping[str, float], variance: Mapping[str, float]
) -> tuple[float, float, int]:
    """Return `excess`, `weight` and `degrees` of the interaction in the residuals of the sums."""
    squares, weight, count = 0.0, 0.0, 0
    for cell in cells:
        weights = {name: number / variance[name] for name, (number, _) in cell.items()}
        total = sum(weights.values())
        mean = sum(weights[name] * (value - values[name]) for name, (_, value) in cell.items()) / total
        squares += sum(weights[name] * (value - values[name] - mean) ** 2 for name, (_, value) in cell.items())
        weight += total - sum(each * (each / total) for each in weights.values())
        count += len(cell) - 1
    degrees = count - (len(values) - 1)
    if degrees <= 0:
        return 0.0, 0.0, 0
    return squares - degrees, weight * (degrees + AGREEMENT) / count, degrees
