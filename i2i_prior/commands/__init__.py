"""Commands of `i2i-prior`.

Each module but `common` and `prepare_shards` is a command:

  EXAMPLE: a command line that parses, for its --help.
  OVERRIDES = True: it takes --config.NAME=VALUE; others leave it out.
  add_options(parser): adds its options.
  run(options, overrides): runs it and returns the exit code.

A command is imported before its options are parsed, so it imports JAX, NumPy
and the modules that need them within functions only.
"""

# Name of a command -> its module, and its line in --help, in this order.
COMMANDS = {
    "train": ("train", "Train a prior, or resume one."),
    "sample": ("sample", "Draw variations of images."),
    "interpolate": ("interpolate", "Walk between two images."),
    "evaluate": ("evaluate", "Score a checkpoint."),
    "fid": ("fid", "Compare two sets of images, or their statistics."),
    "prepare": ("prepare", "Make a sharded data set of a source."),
    "import": ("import_", "Read weights of other programs."),
    "export": ("export", "Write weights for other programs."),
    "weights": ("weights", "Store the weights that metrics need."),
    "compile": ("compile", "Compile for a machine that is not here."),
    "coordinates": ("coord_check", "Check muP at several widths."),
    "flops": ("flops", "Count parameters, FLOPs and bytes of a config."),
    "report": ("report", "Write report.html of a run."),
    "inspect": ("inspect", "Look at data before training on them."),
    "curate": ("curate", "Choose the records worth training on."),
    "fit": ("fit", "Fit scaling laws to runs, and predict from them."),
    "sweep": ("sweep", "Plan many runs, start, watch and collect them."),
    "doctor": ("doctor", "Show devices, memory and disk of this machine."),
}
