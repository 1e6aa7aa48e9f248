"""The loader in other loops: torch's DataLoader, StatefulDataLoader, Lightning; and in workers.

Each makes a ViewLoader from its own arguments, and asks it for batches and states. None decides
what is shown.
"""
