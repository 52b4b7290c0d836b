"""Source files as syntax: constants, imports, differences, encodings, and which constants buy training time.

Uses journal for its nouns; nothing here runs anything.
"""
