"""Weight files: safe reading, exchange with torchvision, published folders."""
