"""Images that are hard to read in their right colours, each made by hand or by a library."""
