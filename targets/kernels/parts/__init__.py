"""What kernels of several instruction sets are put together from."""
