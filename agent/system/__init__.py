"""Files, names, patterns and the command line, with a bound on whatever strangers can put in them.

Uses errors and format only.
"""
