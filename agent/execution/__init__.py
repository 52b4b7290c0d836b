"""A supervised run of the protocol's command: process tree, limits, evaluator, data integrity, conditions.

Imports `room`. A run results in a metric or in the reason why it has none; verdicts are made elsewhere.
"""
