"""The program: an autonomous research loop over train.py.

`loop.py` is the loop. Packages form a tower, and each uses only those below it,
as `[tool.importlinter]` in pyproject.toml says.
"""
