"""The implementation of prepare.py, protected like it: no candidate may change a file here.

Imports nothing from agent, prepare.py or train.py.
"""
