"""Fit a Gaussian process to all measurements, and compute the expected improvement of candidates.

Matern 5/2 kernel with one length scale per constant (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, chapters 4 and 5). The prior of the length scales grows with the square root of the number of constants (Hvarfner
et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, 2024). The model is refitted for each proposal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agent.proposers.search.threads import one_thread

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

# Length scales, amplitude and noise are learned from at most this many of the best points, in this many steps.
MOST_FITTED = 100
STEPS = 25
FIRST_STEP, LARGEST_STEP = 0.2, 0.5
# The prior mean, expected far from all points, as a quantile of the values.
FAR = 0.9
# Log-normal priors: median, and standard deviation of the logarithm. Values have unit variance.
LENGTH, LENGTH_DEVIATION = 0.3, 0.8
NOISE, NOISE_DEVIATION = 0.02, 1.5
AMPLITUDE_DEVIATION = 0.7
JITTERS = (1e-8, 1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted Gaussian process.

    Attributes:
        points: shape (n, features), divided by `lengths`.
        lengths: length scale of each feature.
        weights: shape (n,), the inverse covariance times the scaled values.
        inverse: shape (n, n), the inverse covariance of the scaled values.
        mean, scale: of the values; scaled values are (value - mean) / scale.
        amplitude: variance of the scaled function.
        noise: variance of the scaled values around it.
    """

    points: Array
    lengths: Array
    weights: Array
    inverse: Array
    mean: float
    scale: float
    amplitude: float
    noise: float

    def pending(self, points: Array) -> GaussianProcess:
        """Return the model as if each of the points had been measured as it predicts: sure of them, else unchanged.

        This is the "kriging believer" (Ginsbourger, Le Riche, Carraro 2010, "Kriging is well-suited to parallelize
        optimization").
        """
        import numpy as np

        if not len(points):
            return self
        scaled = points / self.lengths
        count = len(points)
        cross = self.amplitude * _matern(_squares(scaled, self.points))
        own = self.amplitude * _matern(_squares(scaled, scaled)) + (self.noise + 1e-6) * np.eye(count)
        # The inverse of the larger covariance, by the Schur complement. The means stay as they are: weights of 0.
        through = cross @ self.inverse
        rest = np.linalg.inv(own - through @ cross.T)
        corner = -rest @ through
        inverse = np.block([[self.inverse - through.T @ corner, corner.T], [corner, rest]])
        weights = np.concatenate([self.weights, np.zeros(count)])
        return replace(self, points=np.concatenate([self.points, scaled]), weights=weights, inverse=inverse)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation, without noise, at each of the points of shape (m, features)."""
        import numpy as np

        cross = self.amplitude * _matern(_squares(points / self.lengths, self.points))
        variance = self.amplitude - ((cross @ self.inverse) * cross).sum(1)
        return self.mean + self.scale * (cross @ self.weights), self.scale * np.sqrt(np.maximum(variance, 1e-10))

    def draw(self, points: Array, count: int, random: np.random.Generator) -> Array:
        """Return functions drawn from the posterior, without noise, at the points of shape (m, features).

        Returns:
            Shape (count, m).

        Raises:
            LinAlgError: the covariance is not positive definite, even with the largest jitter.
        """

        scaled = points / self.lengths
        cross = self.amplitude * _matern(_squares(scaled, self.points))
        covariance = self.amplitude * _matern(_squares(scaled, scaled)) - cross @ self.inverse @ cross.T
        root = _root(0.5 * (covariance + covariance.T), self.amplitude)
        drawn: Array = cross @ self.weights + random.standard_normal((count, len(points))) @ root.T
        return self.mean + self.scale * drawn


def fit(points: Array, values: Array, group: Array, doubts: Array) -> GaussianProcess:
    """Fit a Gaussian process.

    The mean far from all points is a bad value rather than the average, because good values are rare in a wide space.

    Args:
        points: shape (n, features), in 0..1.
        values: shape (n,); smaller is better.
        group: index of the constant of each feature.
        doubts: shape (n,); the noise variance of each value, in units of that of one measured in this session.
    """
    import numpy as np

    mean, scale = float(np.quantile(values, FAR)), float(values.std()) or 1.0
    wanted = (values - mean) / scale
    best = np.argsort(values, kind="stable")[:MOST_FITTED]
    theta = _learn(points[best], wanted[best], group, doubts[best])
    lengths, amplitude, noise = np.exp(theta[:-2])[group], math.exp(theta[-2]), math.exp(theta[-1])
    scaled = points / lengths
    inverse = np.linalg.inv(amplitude * _matern(_squares(scaled, scaled)) + np.diag(noise * doubts + 1e-6))
    return GaussianProcess(scaled, lengths, inverse @ wanted, inverse, mean, scale, amplitude, noise)


@one_thread()
def improvement(model: GaussianProcess, points: Array, best: float) -> Array:
    """Return the expected improvement on `best` at each point."""
    import numpy as np

    mean, deviation = model.predict(points)
    z = (best - mean) / deviation
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    expected: Array = deviation * (z * below + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))
    return expected


def _learn(points: Array, wanted: Array, group: Array, doubts: Array) -> Array:
    """Return the logarithms of length scales, amplitude and noise that maximize the posterior, found by Rprop."""
    import numpy as np

    starts = np.flatnonzero(np.diff(group, prepend=-1))
    squares = np.add.reduceat((points[:, None] - points[None]) ** 2, starts, axis=2).transpose(2, 0, 1)
    count = len(starts)
    prior = np.array([math.log(LENGTH * math.sqrt(count))] * count + [0.0, math.log(NOISE)])
    deviation = np.array([LENGTH_DEVIATION] * count + [AMPLITUDE_DEVIATION, NOISE_DEVIATION])
    theta, step, before = prior.copy(), np.full(count + 2, FIRST_STEP), np.zeros(count + 2)
    flat = np.ascontiguousarray(squares).reshape(count, -1)
    eye = np.eye(len(points))
    for _ in range(STEPS):
        weights = np.exp(-2 * theta[:-2])
        root = np.sqrt(5 * np.maximum((weights @ flat).reshape(eye.shape), 0))
        decay = np.exp(-root)
        amplitude, noise = math.exp(theta[-2]), math.exp(theta[-1])
        kernel = amplitude * (1 + root + root**2 / 3) * decay
        inverse = np.linalg.inv(kernel + (noise * doubts + 1e-6) * eye)
        alpha = inverse @ wanted
        outer = 0.5 * (np.outer(alpha, alpha) - inverse)
        by_length = (flat @ (outer * amplitude * 5 / 3 * (1 + root) * decay).ravel()) * weights
        slope = np.concatenate([by_length, [(outer * kernel).sum(), noise * np.trace(outer * doubts)]])
        slope -= (theta - prior) / deviation**2
        turned = np.sign(slope) * np.sign(before)
        step = np.clip(np.where(turned > 0, step * 1.2, np.where(turned < 0, step * 0.5, step)), 1e-3, LARGEST_STEP)
        theta, before = theta + np.sign(slope) * step, slope
    return theta


def _root(covariance: Array, amplitude: float) -> Array:
    """Return the Cholesky factor, with as little jitter on the diagonal as the rounding of near points needs."""
    import numpy as np

    eye = np.eye(len(covariance))
    for jitter in JITTERS[:-1]:
        try:
            return np.linalg.cholesky(covariance + jitter * amplitude * eye)
        except np.linalg.LinAlgError:
            continue
    return np.linalg.cholesky(covariance + JITTERS[-1] * amplitude * eye)


def _matern(squares: Array) -> Array:
    import numpy as np

    root = np.sqrt(5 * squares)
    kernel: Array = (1 + root + root**2 / 3) * np.exp(-root)
    return kernel


def _squares(a: Array, b: Array) -> Array:
    """Return the squared distance of every row of `a` to every row of `b`."""
    import numpy as np

    squares: Array = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)
    return squares
