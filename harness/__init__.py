"""What prepare.py is made of. Protected like it: no candidate changes a file here.

Imports nothing of agent, and nothing of prepare.py or train.py.
"""
