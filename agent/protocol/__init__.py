"""protocol.json: its models, how it is loaded and checked, and how numbers are read by its rules.

Uses system.
"""
