"""Code with a plain C interface and no runtime: a static library, a shared library or C sources in one folder."""
