"""`skill`: the files that tell coding agents how to research in a workspace."""
