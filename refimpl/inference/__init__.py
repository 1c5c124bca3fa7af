"""Fast forms of what the definitions compute: the same function, arranged for speed, on NumPy and CuPy.

Nothing here defines anything. Each function names the definition in `refimpl` whose answers it gives, bit for bit, and its tests compare the two.
Importing this package imports no CuPy.
"""

__all__: list[str] = []
