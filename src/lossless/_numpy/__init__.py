"""NumPy arrays: checked rows to the kernels, or to the reference formulas where there are none."""
