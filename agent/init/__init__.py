"""`init`: write a tested protocol.json for any repository.

Imports session and the packages below it.
"""
