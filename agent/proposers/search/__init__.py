"""Search the constants of the mutable files: the built-in proposer.

Imports source, and base of its own package.
"""
