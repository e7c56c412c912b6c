"""Errors for the user, whose message is one sentence."""


class InputError(ValueError):
    """Raised if the user's input cannot be used; the message says what was wrong, what is allowed and what to do."""


class Unavailable(InputError):
    """Raised if data or weights are not on this machine and cannot be downloaded either."""
