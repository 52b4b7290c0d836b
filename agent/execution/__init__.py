"""One run of the protocol's command, supervised: process tree, limits, evaluator, integrity, conditions.

Uses room. Returns a `Run` or the reason why there is none; it judges nothing.
"""
