from .base import (
    Payload as Payload,
    Plan as Plan,
    Protocol as Protocol,
    Tick as Tick,
)
from .gossip import Gossip as Gossip
from .server import Server as Server
from .walk import Walk as Walk
