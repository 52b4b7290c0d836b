"""Language models as proposers: the prompt, the wire, and edits out of answers.

Uses search for what it has learnt, and the answer format that agents share.
"""
