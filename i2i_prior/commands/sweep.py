"""Which function a verb of `i2i-prior sweep` is; heavy imports inside."""

from __future__ import annotations

import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `options.verb`; overrides are those of plan and submit."""
    if options.verb == "plan":
        from i2i_prior.sweeps.planning import plan

        return plan(options, overrides)
    if options.verb == "collect":
        from i2i_prior.sweeps.collect import collect

        return collect(options)
    if options.verb == "run":
        from i2i_prior.sweeps.run.attempt import run as attempt

        return attempt(options)
    if options.verb == "status":
        from i2i_prior.sweeps.watching import status

        return status(options)
    if options.verb == "logs":
        from i2i_prior.sweeps.logs import logs

        return logs(options)
    from i2i_prior.sweeps import submit

    if options.verb == "submit":
        return submit.submit(options, overrides)
    rest = {"retry": submit.retry, "cancel": submit.cancel}
    return rest[options.verb](options)
