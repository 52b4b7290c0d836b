"""The implementation of prepare.py, protected like it: no candidate may change a file here.

It imports none of agent/, prepare.py and train.py.
"""
