"""Language models as proposers: the prompt, the API formats, and edits parsed from answers.

Imports search for what it has learned, and the answer format that agents share.
"""
