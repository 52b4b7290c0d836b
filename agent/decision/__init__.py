"""Decide between keep, discard and another run: noise, sequential test, equal steps, session limits.

Imports journal and source, and the conditions recorded by execution. Starts no processes.
"""
