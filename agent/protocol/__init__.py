"""protocol.json: its models, loading, validation, and metric extraction.

Uses system.
"""
