"""Whether a run that is under way still has a chance.

Uses learning curves and what decision knows of noise.
"""
