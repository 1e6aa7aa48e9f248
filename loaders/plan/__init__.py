"""Pure decisions: which rows, views and sets a step shows, and where a loader stands.

Everything follows from (seed, epoch) and the settings; threads, ranks and time enter nowhere.
Orders and schedules are fixed for good: golden tests hold them, and saved states rely on them.
"""
