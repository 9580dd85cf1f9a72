from .building import (
    Settings as Settings,
    build as build,
)
from .composition import compose as compose
from .from_python import (
    simulate as simulate,
    simulate_many as simulate_many,
)
