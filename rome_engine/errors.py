"""Every error a user can cause, as one type each.

A message is one line: what was wrong, with which input, and the remedy. The command line prints it and exits with 2.
"""


class RomeEngineError(Exception):
    """Base of all errors this package raises on purpose."""


class ModelLoadError(RomeEngineError):
    """No model could be loaded from this name or folder."""


class UnsupportedModelError(RomeEngineError):
    """The model's structure could not be proven, or is of a kind that is not handled."""


class EmbeddedModelError(RomeEngineError):
    """The embedded model could not be fetched, checked or converted."""


class PromptError(RomeEngineError):
    """A prompt, subject or target that cannot be used as given."""


class SubjectNotFoundError(PromptError):
    """The subject does not occur in the prompt."""


class AmbiguousSubjectError(PromptError):
    """The subject occurs more than once in the prompt."""


class TargetError(PromptError):
    """A target that is empty, has no tokens, or is already the answer."""


class PromptTooLongError(PromptError):
    """The prompt has more tokens than the model's context."""


class ActivationError(RomeEngineError):
    """An activation or a head that the model does not have, or a patch that does not fit it."""


class TraceError(RomeEngineError):
    """A trace that cannot be planned, or whose self-tests failed."""


class NotReplayableError(TraceError):
    """The fast engine's self-tests failed on this model: the reference engine is needed."""


class StatisticsError(RomeEngineError):
    """Second moments that are missing, unreadable or not usable."""


class EditError(RomeEngineError):
    """An edit that cannot be computed or must not be applied."""


class NotFiniteError(EditError):
    """Numbers of a model, as it is or under an edit, that are not finite: nothing can be read from them."""


class EditFileError(EditError):
    """A file that is not an edit, or is damaged."""


class WrongWeightsError(EditError):
    """The edit was made for other weights than the model has."""


class BenchError(RomeEngineError):
    """A benchmark that cannot be run as it was asked for."""


class RunError(BenchError):
    """A run's file that is no run, is in use, or belongs to another benchmark."""


class ClusterError(RomeEngineError):
    """A Ray cluster that cannot be used, or workers of one that cannot do what they were given."""


class StorageError(RomeEngineError):
    """A file or folder that cannot be read or written."""


class NoRoomError(StorageError):
    """A file that cannot be written where it is: no room, or no right to."""


class InUseError(StorageError):
    """A file that another process is using."""
