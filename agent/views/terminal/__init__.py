"""The live screen.

Uses the words and colors of views.
"""
