"""Where a run happens: a fresh copy of a commit, what of the machine it shows, and how it is closed.

Uses repository for the copy.
"""
