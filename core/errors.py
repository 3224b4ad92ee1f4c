"""One exception hierarchy. Every message is a sentence to a person: the field, the value, what is wrong, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence


class FedcosimError(Exception):
    """Base of everything fedcosim raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line exits with: 1 for a failed run, 2 for bad input.
    """

    exit_code = 1


class SpecError(FedcosimError):
    """The experiment, or something it names, cannot be run as described.

    Parameters
    ----------
    problems : str or sequence of str
        One sentence a problem, each naming field, value and what is allowed.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(SpecError):
    """A data set is missing, unreadable, or cannot be split as asked."""


class PayloadError(FedcosimError):
    """A message carries arrays that are not what the receiver expects (keys, shapes, dtypes, finiteness)."""


class CodecError(FedcosimError):
    """An update cannot be encoded; the message says which tensor, and why."""


class CalibrationError(FedcosimError):
    """What a codec was given to calibrate itself on is missing, empty or not finite."""


class PrivacyError(FedcosimError):
    """A client has released all that its promise allows."""


class StateError(FedcosimError):
    """Client state or a checkpoint is missing, damaged, or of another run."""


class RoundError(FedcosimError):
    """A round got too few valid replies to go on."""


class RunError(FedcosimError):
    """A run directory cannot be used as asked (not found, already finished, being written by another process)."""

    exit_code = 2
