"""How a round is planned: at a server, or over a graph."""

from fedsim.protocols.gossip import Gossip
from fedsim.protocols.server import Server

__all__ = ["Gossip", "Server"]
