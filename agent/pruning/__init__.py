"""Predict from learning curves, or from a shorter training, whether a candidate can still win.

Imports the noise estimate of decision.
"""
