"""What things cost: bytes on disk, seconds of an epoch, and what bounds them on this machine.

`estimate` computes from a plan and from rates, `measure` finds the rates, `disk_space` refuses work
that would not fit. Nothing else depends on these figures: they may become better at any time.
"""
