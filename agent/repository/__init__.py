"""All access to git: commits of candidates and results, and the user's checkout.

Imports `source` and `protocol`. No other package runs git on the workspace. The user's own edits are left alone.
"""
