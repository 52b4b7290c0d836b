"""Git: the only room that touches it.

Uses source and protocol. Commits candidates, moves the branch, and leaves what a person wrote alone.
"""
