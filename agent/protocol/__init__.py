"""protocol.json: its models, loading, validation, and metric extraction.

Imports system.
"""
