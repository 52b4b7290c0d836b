"""Coding agents as proposers: their command lines, the copy that they edit, and how their changes are collected.

Imports room and execution to confine an agent to its copy.
"""
