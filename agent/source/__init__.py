"""Read and edit source files as syntax: constants, imports, diffs, encodings, training budgets.

Imports journal for its types; nothing here runs code.
"""
