"""Propose edits of the mutable files: the proposer interface, the choice of a proposer by flags, and shared checks.

Imports report, decision and source; sees copies, never the workspace.
"""
