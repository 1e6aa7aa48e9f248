"""Views for people: contact sheet, HTML report, facts and figures of a store.

It reads stores and changes nothing. What it draws may change freely; the names in the facts of
`--json` may not.
"""
