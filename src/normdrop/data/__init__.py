"""Data: where rows come from, how a file becomes rows, and how each replicate splits and is served them."""
