"""Predict from learning curves whether a run in progress can still win.

Uses the noise estimate of decision.
"""
