"""The built-in proposer: a search over the constants of the mutable files.

Uses source, and base of its own package.
"""
