"""After a session: commit its kept changes on the user's branch, or delete the session."""
