"""How a round is planned: at a server, over a graph, or by tokens that walk a graph."""

from fedsim.protocols.gossip import Gossip
from fedsim.protocols.server import Server
from fedsim.protocols.walk import Walk

__all__ = ["Gossip", "Server", "Walk"]
