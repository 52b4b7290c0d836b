"""Predict from learning curves whether a run in progress can still win.

Imports the noise estimate of decision.
"""
