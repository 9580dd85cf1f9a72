"""Attacks on what clients send or train on."""

from fedsim.attacks.base import Attack, NoAttack
from fedsim.attacks.colluding import InnerProduct, LittleIsEnough
from fedsim.attacks.local import GaussianNoise, LabelFlip, SignFlip

__all__ = ["Attack", "GaussianNoise", "InnerProduct", "LabelFlip", "LittleIsEnough", "NoAttack", "SignFlip"]
