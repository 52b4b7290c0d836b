"""Sessions as plain data: status, gain, timing, what the morning report shows.

Uses journal, decision and repository. Prints nothing: views does.
"""
