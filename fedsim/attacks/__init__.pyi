from .base import (
    Attack as Attack,
    NoAttack as NoAttack,
)
from .colluding import (
    InnerProduct as InnerProduct,
    LittleIsEnough as LittleIsEnough,
)
from .local import (
    GaussianNoise as GaussianNoise,
    LabelFlip as LabelFlip,
    SignFlip as SignFlip,
)
