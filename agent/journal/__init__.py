"""The record of a session: its data types, its events, the state they fold into, and the files that hold them.

Imports protocol and system. Every other package reads sessions through this one.
"""
