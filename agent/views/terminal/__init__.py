"""The live screen.

Uses the words and colours of views.
"""
