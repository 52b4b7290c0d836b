"""What edits the mutable files: what a proposer is, which one the flags ask for, and what each of their kinds shares.

Uses report, decision and source; sees copies, never the workspace.
"""
