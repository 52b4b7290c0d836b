"""`field`: measure a machine with real runs, and describe it in one block of text that can be published."""
