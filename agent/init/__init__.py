"""`init`: from a repository of any kind to a protocol.json that was tried.

Uses session and what stands below it.
"""
