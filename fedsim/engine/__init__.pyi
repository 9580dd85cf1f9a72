from .arena import (
    Arena as Arena,
    ArraySpec as ArraySpec,
    SharedArena as SharedArena,
)
from .base import (
    Engine as Engine,
    Job as Job,
    Session as Session,
)
from .inprocess import InProcess as InProcess
from .ray import Ray as Ray
