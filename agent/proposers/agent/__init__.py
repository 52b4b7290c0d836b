"""Coding agents as proposers: their command lines, the copy that they work in, and what they leave.

Uses room and execution to keep an agent inside its copy.
"""
