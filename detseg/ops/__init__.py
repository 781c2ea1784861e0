"""Pure functions of tensors, batched over images, that several modules share."""
