"""PyTorch tensors: the kernels on plain CPU tensors, the reference formulas on everything else."""
