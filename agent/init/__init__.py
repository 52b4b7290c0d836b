"""`init`: write a tested protocol.json for any repository.

Uses session and the packages below it.
"""
