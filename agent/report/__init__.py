"""Sessions as plain data: status, gain, timing, and the contents of the report.

Imports journal, decision and repository. Prints nothing; that is the job of views.
"""
