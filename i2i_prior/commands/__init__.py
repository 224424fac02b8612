"""Commands of `i2i-prior`.

Each module but `common` and `prepare_shards` is a command:

  HELP: one sentence, for `i2i-prior --help`.
  EXAMPLE: a command line that parses.
  OVERRIDES: True if it takes --config.NAME=VALUE.
  add_options(parser): adds its options.
  run(options, overrides): runs it and returns the exit code.

All of them are imported to print the help, so they import JAX, NumPy and the
modules that need them within functions only.
"""

# Name of a command -> its module in `commands`, in the order of --help.
COMMANDS = {
    "train": "train",
    "sample": "sample",
    "interpolate": "interpolate",
    "evaluate": "evaluate",
    "fid": "fid",
    "prepare": "prepare",
    "import": "import_",
    "export": "export",
    "weights": "weights",
    "compile": "compile",
    "coordinates": "coord_check",
    "flops": "flops",
    "report": "report",
    "inspect": "inspect",
    "curate": "curate",
    "fit": "fit",
    "sweep": "sweep",
    "doctor": "doctor",
}
