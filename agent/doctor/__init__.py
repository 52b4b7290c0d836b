"""`doctor`: check the machine, the workspace, sessions and models.

Uses session and the packages below it. Makes no paid calls.
"""
