"""What may be found damaged in Redis."""

DAMAGE: tuple = ()
