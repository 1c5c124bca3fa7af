"""Naming schemes: how each framework calls the parameters of each model, as tables that can be read and inverted."""

from __future__ import annotations

__all__: list[str] = []
