"""Who runs in this step: requests and their sequences, admission, and the scheduler. Plain Python: nothing here loads
torch or numpy."""

from octavo.scheduling.admission import Limits
from octavo.scheduling.messages import EngineRequest, RequestUpdate, SequenceUpdate
from octavo.scheduling.scheduler import Scheduler

__all__ = ["EngineRequest", "Limits", "RequestUpdate", "Scheduler", "SequenceUpdate"]
