"""`claim` and `verify`: evidence for a gain in one small folder, and its replication on another machine."""
