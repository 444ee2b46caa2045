"""The commands of `python -m twisted_im`: each module has `add_arguments(parser)` and `run(arguments) -> exit status`."""
