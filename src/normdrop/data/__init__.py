"""Data: where rows come from, how a file becomes rows, and how each replicate splits and is served them."""

# The keys of conf/data/_split.yaml: the data module's arguments, whatever the source.
SERVED = ("fresh", "test_fraction", "val_fraction", "train_size", "train_most", "copies", "pca", "shape")
