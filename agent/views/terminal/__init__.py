"""The live screen.

Imports the words and colors of views.
"""
