"""Views for people: contact sheet, HTML report, pages, notebooks; facts and figures of a store.

`summary` gathers facts, `text`, `report`, `notebook` and `pages` show them, `sheet` draws a PNG.
`chosen_rows` and `query` say which samples are shown, `shown_rows` reads them, `thumbnails` their
pictures; `charts` and `figures` draw numbers; `issues`, `comparison`, `augmentation`, `pair_losses`
and `embeddings` compute what a page of their name shows. Nothing here changes a store, opens a
checkpoint or knows HTTP. What is drawn may change freely; the names of the facts that `--json`
prints, the addresses of pages, and the rows that a seed chooses, may not.
"""
