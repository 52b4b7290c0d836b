"""The program: an autonomous research loop over train.py.

`loop.py` is the loop. The packages are layered: each imports only those below it, as `[tool.importlinter]` in
pyproject.toml requires.
"""
