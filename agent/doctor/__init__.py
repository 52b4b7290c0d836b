"""`doctor`: what is well and what is not, in machine, workspace, sessions and models.

Uses session and what stands below it; spends nothing.
"""
