"""The playbook: ideas worth trying, in a file that a person edits, what was tried of them, and what sessions add."""
