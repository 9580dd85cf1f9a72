"""Attacks on what clients send or train on."""

from fedsim.attacks.base import Attack, NoAttack

__all__ = ["Attack", "NoAttack"]
