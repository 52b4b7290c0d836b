"""`doctor`: check the machine, the workspace, sessions and models.

Imports session and the packages below it. Makes no paid calls.
"""
