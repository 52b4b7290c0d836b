"""The live screen, and the page of `status`.

Imports the words and colors of views.
"""
