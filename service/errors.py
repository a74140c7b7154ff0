"""What can go wrong in the service, beside `adapters.errors`.

    ServiceError
    ├── SettingsError        the settings file or an environment variable cannot be used
    ├── DatabaseNotReady     the migrations are not at head, or nothing was initialised
    ├── NotFound             no such fact, refresh, adapter, release or key
    ├── Conflict             the request contradicts what is recorded
    │   └── HeadMoved        somebody else moved the head in the meantime
    ├── LeaseHeld            another refresh is running
    ├── LeaseLost            this process no longer owns the lease; it may write nothing more
    ├── Later                cannot be done now; the same will do in a while
    │   ├── OverQuota        this source sent more than it may
    │   └── Overloaded       more waits to be stored than there is room for
    ├── BelowReserve         the disk has no more room than its reserve
    ├── Stopped              a signal asked this process to end
    ├── NotAllowed           the key is missing, unknown, expired, revoked or without the scope
    └── DemoFailed           a step of the demonstration failed

`service.api` maps them to problem+json, `service.cli` to exit codes; nothing else does.
"""

BUSY = 4  #: exit code: the same can be done once what runs has ended


class ServiceError(Exception):
    """Anything that the service refuses to go on with."""


class SettingsError(ServiceError):
    """The settings file or an environment variable cannot be used."""


class DatabaseNotReady(ServiceError):
    """The migrations are not at head, or nothing was initialised."""


class NotFound(ServiceError):
    """No such fact, refresh, adapter, release or key."""


class Conflict(ServiceError):
    """The request contradicts what is recorded."""


class HeadMoved(Conflict):
    """Somebody else moved the head in the meantime."""


class LeaseHeld(ServiceError):
    """Another refresh is running. The command line ends with BUSY."""


class LeaseLost(ServiceError):
    """This process no longer owns the lease; it may write nothing more."""


class Later(ServiceError):
    """Cannot be done now; the same will do in a while."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverQuota(Later):
    """This source sent more than it may."""


class Overloaded(Later):
    """More waits to be stored than there is room for."""


class BelowReserve(ServiceError):
    """The disk has no more room than its reserve."""


class Stopped(ServiceError):
    """A signal asked this process to end."""


class NotAllowed(ServiceError):
    """The key is missing, unknown, expired, revoked or without the scope."""

    def __init__(self, message: str, *, known: bool = False) -> None:
        super().__init__(message)
        self.known = known  #: the key is good, but lacks the scope


class DemoFailed(ServiceError):
    """A step of the demonstration failed."""
