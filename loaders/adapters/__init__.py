"""The loader in other loops: torch's DataLoader, StatefulDataLoader, Lightning; and in workers.

Each turns its framework's questions into settings of a ViewLoader; none decides what is shown.
"""
