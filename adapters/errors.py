"""What can go wrong while a model is loaded, trained, asked or composed.

    AdapterError
    ├── ConfigurationError      a setting cannot be used: which one, what to write
    ├── ModelSourceError        the base model is missing, corrupt or of a form that is refused
    ├── ArtefactError           a stored artefact is missing, incomplete or not its digest
    │   └── StorageFull         the disk filled up while an artefact was written
    ├── ComposeError            an adapter does not fit the base that it should be added to
    ├── UnsafeText              a text that cannot be encoded as plain tokens
    ├── SuiteError              a probe suite or relation file with a broken line
    └── TrainingDiverged        the loss stopped being finite: the batch is at fault

Every message is a sentence with the facts in it: what, where, and what to do.
"""


class AdapterError(Exception):
    """Anything that `adapters` refuses to go on with."""


class ConfigurationError(AdapterError):
    """A setting cannot be used."""


class ModelSourceError(AdapterError):
    """The base model is missing, corrupt or of a form that is refused."""


class ArtefactError(AdapterError):
    """A stored artefact is missing, incomplete or not what its digest says."""


class StorageFull(ArtefactError):
    """The disk filled up while an artefact was written; nothing half-written is left behind."""


class ComposeError(AdapterError):
    """An adapter does not fit the base that it should be added to."""


class UnsafeText(AdapterError):
    """A text that cannot be encoded as plain tokens of this tokenizer."""


class SuiteError(AdapterError):
    """A probe suite or relation file with a broken line."""


class TrainingDiverged(AdapterError):
    """The loss stopped being finite; the batch is at fault, not the service."""
