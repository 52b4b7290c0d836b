"""A session with many stations: what each does next, the orders that they get, and the verdicts across them.

The loop, git, the proposer and the journal stay in one process, the decider. Dask carries orders and answers.
"""
