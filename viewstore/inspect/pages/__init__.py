"""Pages: an address and its query in, HTML or JSON out. Knows no HTTP and changes nothing.

`site` finds the page, `tabs` is the table of them, and there is a module for each; `templates` and
`static` beside this folder are how they look. You may change how a page looks and what it shows;
others rely on the addresses (they are in bookmarks), and on the JSON of each page.
"""
