"""What a session has recorded: the nouns, the events, the state that they add up to, and where it all lies.

Uses protocol and system. Every other room reads sessions through this one.
"""
