"""Reading of queries: from the words of a text to a tree of findings."""
