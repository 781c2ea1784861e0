"""Tables of labels, masks and images, and the issues found while reading them."""
