"""Errors that a user can mend: shown as one sentence, without a traceback, with exit code 2.

InputError
├── ModelError   a model that cannot be found, read, or pruned as asked
├── TextError    a text that is missing, empty, or too short
└── OutputError  an output folder that cannot be written, or would be overwritten
    └── OtherRunError  a folder that holds a run with other settings

The metric language has its own ``prunerzero.metrics.MetricError``, shown the same way.
"""


class InputError(ValueError):
    """Base of all errors that a user can mend, except those of the metric language."""


class ModelError(InputError):
    """A model that cannot be found, read, or pruned as asked."""


class TextError(InputError):
    """A text that is missing, empty, or too short."""


class OutputError(InputError):
    """An output folder that cannot be written, or would be overwritten."""


class OtherRunError(OutputError):
    """A folder that holds a run with other settings than those given."""


def first_line(error: BaseException) -> str:
    """The first line of a library's message, without a full stop, to stand in our own sentence.

    >>> first_line(OSError("no such file."))
    'no such file'
    >>> first_line(FileNotFoundError(2, "No such file or directory", "my.txt"))
    "no such file or directory: 'my.txt'"
    """
    if isinstance(error, OSError) and error.strerror:  # its own text begins with a number
        where = f": {str(error.filename)!r}" if error.filename else ""
        return error.strerror.lower() + where
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
