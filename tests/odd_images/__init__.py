"""Images that are hard to read in their right colours, kind by kind, and what they look like."""
