"""Source files as syntax: constants, differences, encodings, and which constants buy training time.

Uses journal for its nouns; nothing here runs anything.
"""
