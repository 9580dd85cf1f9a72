from .client_spread import ClientSpread as ClientSpread
from .distance_to_optimum import DistanceToOptimum as DistanceToOptimum
from .evaluator import (
    Evaluation as Evaluation,
    Evaluator as Evaluator,
)
from .metric import (
    Look as Look,
    Metric as Metric,
)
from .objective import Objective as Objective
