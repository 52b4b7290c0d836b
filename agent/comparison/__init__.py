"""Compare commits by held-out runs: the pairs of runs, the evidence, and the verdict of `confirm` and `ablate`."""
