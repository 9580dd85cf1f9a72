from .strategy import (
    InProcessGrid as InProcessGrid,
    as_strategy as as_strategy,
)
