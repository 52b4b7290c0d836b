"""Files, names, patterns and the command line, with bounds on untrusted input.

Imports only `errors` and `format`.
"""
