"""The command `gulliver`: help at once, everything else is imported when a command needs it."""

import errno
import os
import sys

COMMANDS = {
    "search": "search for the fastest recipe within an accuracy budget (-m sweeps, as in task=a,b seed=1,2)",
    "solve": "solve a finished search for another budget or target, scoring nothing: run=DIR budget.max_latency_ms=...",
    "apply": "apply a recipe: recipe=FILE task=... out=DIR; exports the network, scores and measures it",
    "calibrate": "fit a latency model: of this machine, target=... task=..., or of a chip, target=... kernels=FILE.csv",
    "show": "print a recipe: recipe=FILE; with target=... task=... its kernel calls, or without a recipe the choices",
    "predict": "predict kernel times of Ascend and NVIDIA chips: kernels=FILE.csv out=FILE.csv [mode=model|nearest]",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a file system says of a path that is not there to be written to.
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
HELP = """Gulliver finds the fastest compressed form of a trained network that meets an accuracy bar on a target.

usage: gulliver COMMAND [key=value ...]

commands:
{commands}

settings are Hydra's: `gulliver search task=fashion_resnet target=cpu_openvino budget.max_drop=0.01 trials=48`.
`gulliver COMMAND --cfg job` prints all of a command's settings.
"""


def main() -> None:
    """Run the command line; bad input ends with one line on stderr and exit status 2, a full disk with 1."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=lines))
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"gulliver {version('gulliver')}\n")
        return
    if arguments[0] not in COMMANDS:
        _fail(f"unknown command {arguments[0]}; known commands are {', '.join(COMMANDS)}")
    _run(arguments[0], arguments[1:])


def _run(command: str, arguments: list[str]) -> None:
    from gulliver.search.launch import launch
    from gulliver.tasks.errors import InputError

    try:
        launch(command, arguments)
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:
        # Whoever read the output has gone, and Python would complain at its end of what is left to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in _FULL:
            _fail(f"{error}; the same command goes on where this one stopped", 1)
        if error.errno not in _REFUSED:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("gulliver: interrupted; the same command goes on where this one stopped\n")
        sys.exit(130)


def _fail(message: str, status: int = 2) -> None:
    sys.stderr.write(f"gulliver: {' '.join(message.split())}\n")
    sys.exit(status)
