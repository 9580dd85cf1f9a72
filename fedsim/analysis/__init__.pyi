from .comparison import (
    Comparison as Comparison,
    compare as compare,
    plot as plot,
)
from .curves import (
    plot_comparison as plot_comparison,
    run_curves as run_curves,
)
from .runs import (
    failed_runs as failed_runs,
    label_of as label_of,
    load_runs as load_runs,
)
from .targets import (
    rounds_per_node as rounds_per_node,
    rounds_to_target as rounds_to_target,
)
