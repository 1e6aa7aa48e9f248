"""What things cost: bytes on disk, seconds of an epoch, and what bounds them on this machine.

`estimate` computes from a plan and from rates, `measure` finds the rates, `bottleneck` says what
limits a loader, `disk_space` refuses work that would not fit. The figures are for people and may
become better at any time. Others rely on the names in `--json`, and on `choose_shard_rows`: it
decides the shards of every new store, so another result is another store.
"""
