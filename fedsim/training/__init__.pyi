from .batches import (
    Batches as Batches,
    draw_batches as draw_batches,
    local_steps as local_steps,
)
from .execution import (
    clients_per_call as clients_per_call,
    gradient_kernel as gradient_kernel,
)
from .gradients import (
    GradientKernel as GradientKernel,
    LoopedGradient as LoopedGradient,
)
from .loop import (
    Chunk as Chunk,
    Kernel as Kernel,
    train as train,
)
from .settings import LocalTraining as LocalTraining
