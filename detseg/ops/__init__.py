"""Pure functions of tensors, batched over images: the plain, readable form of each rule."""
