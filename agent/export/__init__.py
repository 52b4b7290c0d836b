"""`export`: sessions as tables, and as runs in the user's own experiment tracker."""
