"""Views for people: contact sheet, HTML report, facts and figures of a store.

`summary` gathers facts, `text` and `report` show them, `sheet` draws a PNG, `shown_rows` reads the
samples that both show. Nothing here changes a store. What is drawn may change freely; the names
of the facts that `--json` prints, and the rows that a seed chooses, may not.
"""
