"""`mcp`: a server through which coding agents measure their edits, over the Model Context Protocol."""
