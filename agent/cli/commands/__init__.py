"""The commands, a module for each topic.

Importing a module registers its commands with `program.app`, in the order of the help page.
"""
