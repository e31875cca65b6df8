"""Code for a machine with an OS: a `.fxq` file, threads, and what they take."""
