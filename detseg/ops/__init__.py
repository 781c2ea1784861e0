"""Pure functions of tensors, batched over images."""
