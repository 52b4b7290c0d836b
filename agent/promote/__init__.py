"""`promote`: judge the kept changes of a session again at a larger rung: longer, deeper, or on another machine."""
