"""The isolated copy of a commit in which a run executes, what it shows of the machine, and how it is confined.

Imports `repository` for the copy.
"""
