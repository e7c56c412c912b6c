"""What a user is told when something cannot be done: one sentence."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was wrong, what is allowed and what to do."""


class Unavailable(InputError):
    """What was asked for is not on this machine and cannot be downloaded either."""
