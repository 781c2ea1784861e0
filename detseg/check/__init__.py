"""A look at a whole data set before it is learnt from: figures, faults, a repaired copy, a page to look at."""
