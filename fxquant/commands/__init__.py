"""The commands of the `fxquant` program. Nothing here imports torch or TVM before a command that needs them runs."""
