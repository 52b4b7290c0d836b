"""Keep, discard or one more run: noise, the sequential test, equal steps, and when a session ends.

Uses journal and source, and the conditions that execution recorded. Starts no process.
"""
